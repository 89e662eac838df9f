"""The form that "Analyze results" opens: everything that is to be seen of a run, each with its eye."""

import os
from dataclasses import replace
from typing import Any, Callable, Dict, List

from pyworkflow.protocol import params
from pyworkflow.viewer import ProtocolViewer

from cryopares_core.plots.confidence import draw_confidence, has_confidence
from cryopares_core.plots.curves import draw_learning_curves
from cryopares_core.plots.defocus import draw_defocus, has_defocus
from cryopares_core.plots.errors import draw_error_histograms
from cryopares_core.plots.records import RunRecord, read_run
from cryopares_core.plots.sphere import draw_error_maps, draw_view_distribution
from cryopares_plugin.objects import CryoparesModel
from cryopares_plugin.protocols import (
    ProtCryoparesContinue,
    ProtCryoparesFinetune,
    ProtCryoparesImportModel,
    ProtCryoparesPretrain,
    ProtCryoparesTrain,
)
from cryopares_plugin.viewers.contents import ITEMS, groups
from cryopares_plugin.viewers.figure_window import FigureWindow
from cryopares_plugin.viewers.model_viewer import ModelWindow
from cryopares_plugin.viewers.pages import open_page, report_page
from cryopares_plugin.viewers.picture_window import PictureWindow
from cryopares_plugin.viewers.result_form import show_form
from cryopares_plugin.viewers.tensorboard import TensorBoardWindow

ALL = "all"
NO_EPOCH = "The first epoch has not ended yet. Its values appear here as soon as it has."
NO_VALIDATION = "No particles have been validated yet. This appears when the first epoch of training has ended."
NOT_KNOWN = "This is not known of the particles held out: too few were held out, or the run is one of an earlier version."
NO_GALLERY = "There is no gallery yet. It is made when training begins, from the first particles."
NO_MODEL = "There is no model yet. The first one is saved when the first epoch of training has ended."
NO_RUN = "The run has left nothing yet: its folder {folder} does not exist."


class CryoparesFormViewer(ProtocolViewer):
    """Learning curves, errors, views, particles, report and TensorBoard of a training run."""

    _label = "training run"
    formWindow: Any
    _targets = [  # noqa: RUF012 -- Scipion's own convention
        ProtCryoparesTrain,
        ProtCryoparesFinetune,
        ProtCryoparesContinue,
        ProtCryoparesPretrain,
        ProtCryoparesImportModel,
        CryoparesModel,
    ]

    @classmethod
    def getName(cls) -> str:
        """The name in menus; on the form Scipion writes the plugin's name before the label."""
        return "CryoPARES training run"

    # ---- form

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Training run")
        form.addParam(
            "halfSet",
            params.EnumParam,
            choices=self._choices(),
            default=0,
            display=params.EnumParam.DISPLAY_HLIST,
            label="Half sets",
            help="Which of the run's models to show. Each half set of the particles has a model of its own, so that half maps "
            "made with them stay independent.",
        )
        for title, items in groups().items():
            group = form.addGroup(title)
            for item in items:
                group.addParam(item.name, params.LabelParam, label=item.label, help=item.help)

    def _getVisualizeDict(self) -> Dict[str, Callable[[Any], None]]:
        return {item.name: getattr(self, f"_show_{item.name}") for item in ITEMS}

    def visualize(self, obj: Any, **kwargs: Any) -> None:
        """Open the form for a protocol or its model."""
        self.setProtocol(obj)
        show_form(self, self._name(), [item.name for item in ITEMS], kwargs.get("windows"))

    # ---- the run

    def _folder(self) -> str:
        """The run folder of a protocol or a model, by its full path: the GUI may change its folder."""
        shown = self.protocol
        return os.path.abspath(shown.getPath() if isinstance(shown, CryoparesModel) else shown.getRunDir())

    def _name(self) -> str:
        shown = self.protocol
        return str(shown) if isinstance(shown, CryoparesModel) else shown.getRunName()

    def _goes_on(self) -> bool:
        return not isinstance(self.protocol, CryoparesModel) and self.protocol.isActive()

    def _choices(self) -> List[str]:
        record = read_run(self._folder())
        names = [*record.expected, *(name for name in record.halves if name not in record.expected)]
        return [ALL, *names] if len(names) > 1 else names

    def _record(self) -> RunRecord:
        """The run as it is now, with the half sets that the user wants to see."""
        return self._reader()()

    @property
    def _chosen(self) -> str:
        return self.getParam("halfSet").choices[self.halfSet.get()]

    # ---- what the eyes open

    def _show_curves(self, _: Any = None) -> None:
        if any(half.epochs or half.simulation for half in self._record().halves.values()):
            self._open_figure("Learning curves", (12.5, 4.2), draw_learning_curves)
        else:
            self._say(NO_EPOCH)

    def _show_histogram(self, _: Any = None) -> None:
        self._show_validation("Angular errors of the particles held out", 5.4, draw_error_histograms)

    def _show_error_map(self, _: Any = None) -> None:
        self._show_validation("Errors by view direction", 6.2, draw_error_maps)

    def _show_defocus(self, _: Any = None) -> None:
        self._show_if(has_defocus, "Errors by defocus", (8.0, 4.2), draw_defocus)

    def _show_confidence(self, _: Any = None) -> None:
        self._show_if(has_confidence, "Confidence and its calibration", (12.5, 4.6), draw_confidence)

    def _show_view_map(self, _: Any = None) -> None:
        if any(half.views is not None for half in self._record().halves.values()):
            self._open_figure("View directions of the training particles", (7.2, 4.8), draw_view_distribution)
        else:
            self._say(NO_VALIDATION)

    def _show_gallery(self, _: Any = None) -> None:
        path = os.path.join(self._folder(), "gallery.png")
        if os.path.isfile(path):
            PictureWindow(self._tkRoot, "Particles as the network gets them", path)
        else:
            self._say(NO_GALLERY)

    def _show_report(self, _: Any = None) -> None:
        try:
            problem = open_page(report_page(self._folder())) if os.path.isdir(self._folder()) else self._nothing()
        except OSError as error:
            problem = f"The report could not be written: {error}"
        if problem:
            self._say(problem)

    def _show_tensorboard(self, _: Any = None) -> None:
        if os.path.isdir(self._folder()):
            TensorBoardWindow(self._tkRoot, self._folder())
        else:
            self._say(self._nothing())

    def _show_model(self, _: Any = None) -> None:
        model = CryoparesModel(path=self._folder())
        if model.readFolder():
            ModelWindow(self._tkRoot, model)
        else:
            self._say(NO_MODEL)

    def _show_validation(self, title: str, width: float, draw: Callable[..., None]) -> None:
        """A picture with a panel for each half set that has been validated."""
        ready = [half for half in self._record().halves.values() if half.validation is not None]
        if ready:
            self._open_figure(title, (width * len(ready), 4.4), draw)
        else:
            self._say(NO_VALIDATION)

    def _show_if(self, drawable: Callable[[RunRecord], bool], title: str, size_inches: Any, draw: Callable[..., None]) -> None:
        """A picture where the particles that were held out are known well enough."""
        record = self._record()
        if drawable(record):
            self._open_figure(title, size_inches, draw)
        else:
            validated = any(half.validation is not None for half in record.halves.values())
            self._say(NOT_KNOWN if validated else NO_VALIDATION)

    def _open_figure(self, title: str, size_inches: Any, draw: Callable[..., None]) -> None:
        title = f"{title} - {self._name()}"
        FigureWindow(self._tkRoot, title, size_inches, draw, self._folder(), self._reader(), self._goes_on())

    def _reader(self) -> Callable[[], RunRecord]:
        """Reads the run anew, for the half set that is chosen now: a window keeps its half set when the form's changes."""
        folder, chosen = self._folder(), self._chosen

        def read() -> RunRecord:
            record = read_run(folder)
            return replace(record, halves={name: half for name, half in record.halves.items() if chosen in (ALL, name)})

        return read

    def _nothing(self) -> str:
        return NO_RUN.format(folder=self._folder())

    def _say(self, text: str) -> None:
        self.showInfo(text, "CryoPARES")
