"""The form that "Analyze results" opens for an inference: its poses, its map, its report."""

import os
from functools import partial
from typing import Any, Callable, Dict

from pyworkflow.protocol import params
from pyworkflow.viewer import ProtocolViewer

from cryopares_core.plots.fsc import draw_fsc, read_fsc
from cryopares_core.plots.inference import (
    InferenceRecord,
    draw_calibrations,
    draw_confidences,
    draw_views,
    read_inference,
)
from cryopares_plugin.inference_record import report_page, resolution_angs
from cryopares_plugin.protocols import ProtCryoparesInfer
from cryopares_plugin.viewers.infer_contents import INFER_ITEMS
from cryopares_plugin.viewers.infer_window import InferenceWindow
from cryopares_plugin.viewers.map_slices import draw_slices
from cryopares_plugin.viewers.pages import open_page
from cryopares_plugin.viewers.result_form import show_form

NO_POSES = "No poses have been found yet. They appear here when those of the first batch are."
NO_CALIBRATION = "The models have no calibration: confidence is the network's own, whose order counts more than its value."
NO_MAP = "There is no map yet. It is made at the end, if 'Reconstruct a map?' is set to Yes."
MAP, CURVE = os.path.join("reconstruction", "map.mrc"), os.path.join("reconstruction", "fsc.csv")


class CryoparesInferViewer(ProtocolViewer):
    """Confidence, views, calibration, correlation, map and report of an inference."""

    _label = "inference"
    _targets = [ProtCryoparesInfer]  # noqa: RUF012 -- Scipion's own convention
    formWindow: Any

    @classmethod
    def getName(cls) -> str:
        """The name in menus."""
        return "CryoPARES inference"

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Inference")
        for title in dict.fromkeys(item.group for item in INFER_ITEMS):
            group = form.addGroup(title)
            for item in INFER_ITEMS:
                if item.group == title:
                    group.addParam(item.name, params.LabelParam, label=item.label, help=item.help)

    def _getVisualizeDict(self) -> Dict[str, Callable[[Any], None]]:
        return {item.name: getattr(self, f"_show_{item.name}") for item in INFER_ITEMS}

    def visualize(self, obj: Any, **kwargs: Any) -> None:
        """Open the form for a protocol."""
        self.setProtocol(obj)
        show_form(self, obj.getRunName(), [item.name for item in INFER_ITEMS], kwargs.get("windows"))

    # ---- what the eyes open

    def _show_confidence(self, _: Any = None) -> None:
        self._show_poses("Confidence", (11.0, 4.2), draw_confidences)

    def _show_views(self, _: Any = None) -> None:
        self._show_poses("View directions of the particles kept", (12.5, 4.4), draw_views)

    def _show_calibration(self, _: Any = None) -> None:
        record = read_inference(self._folder())
        if record.summary and not record.summary.get("calibration"):
            self._say(NO_CALIBRATION)
        else:
            self._show_poses("Calibration of the confidence", (5.8, 4.8), draw_calibrations)

    def _show_fsc(self, _: Any = None) -> None:
        self._show_map("Fourier shell correlation", (8.0, 5.0), CURVE, _draw_curve)

    def _show_slices(self, _: Any = None) -> None:
        self._show_map("Slices of the map", (10.0, 6.6), MAP, _draw_slices)

    def _show_report(self, _: Any = None) -> None:
        folder = self._folder()
        try:
            problem = open_page(report_page(folder)) if read_inference(folder).summary else NO_POSES
        except OSError as error:
            problem = f"The report could not be written: {error}"
        if problem:
            self._say(problem)

    # ---- how

    def _folder(self) -> str:
        """By its full path: the GUI may change its folder."""
        return os.path.abspath(self.protocol._getExtraPath())

    def _show_poses(self, title: str, size_inches: Any, draw: Callable[..., None]) -> None:
        if read_inference(self._folder()).summary:
            self._open(title, size_inches, draw)
        else:
            self._say(NO_POSES)

    def _show_map(self, title: str, size_inches: Any, file: str, draw: Callable[..., None]) -> None:
        if os.path.isfile(os.path.join(self._folder(), file)):
            self._open(title, size_inches, draw)
        else:
            self._say(NO_MAP)

    def _open(self, title: str, size_inches: Any, draw: Callable[..., None]) -> None:
        folder, title = self._folder(), f"{title} - {self.protocol.getRunName()}"
        read: Any = partial(read_inference, folder)
        InferenceWindow(self._tkRoot, title, size_inches, draw, folder, read, self.protocol.isActive())

    def _say(self, text: str) -> None:
        self.showInfo(text, "CryoPARES")


def _draw_curve(figure: Any, record: InferenceRecord) -> None:
    folder = str(record.folder)
    draw_fsc(figure, read_fsc(os.path.join(folder, CURVE)), resolution_angs(folder))


def _draw_slices(figure: Any, record: InferenceRecord) -> None:
    draw_slices(figure, os.path.join(str(record.folder), MAP))
