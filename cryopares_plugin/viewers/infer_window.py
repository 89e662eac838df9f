"""A window with a figure of an inference, which is drawn again when more batches are finished."""

from pathlib import Path
from typing import Any, Dict

from cryopares_core.plots.inference import FILE, RECONSTRUCTION, VIEWS
from cryopares_plugin.viewers.figure_window import LOOK_EVERY_MS, FigureWindow

DRAWN = (FILE, VIEWS, f"{RECONSTRUCTION}/fsc.csv", f"{RECONSTRUCTION}/map.mrc")


class InferenceWindow(FigureWindow):
    """Follows the folder of an inference as `FigureWindow` does that of a training."""

    def _follow(self) -> None:
        times = file_times(self.folder)
        if times != self._seen:
            self._seen = times
            self._show(self.read())
        self._timer = self.after(LOOK_EVERY_MS, self._follow)

    def _show(self, record: Any) -> None:
        self.status.configure(text=status_text(record.summary, self.goes_on))
        self.figure.clear()
        self.draw(self.figure, record)
        self.canvas.draw_idle()


def status_text(summary: Dict[str, int], goes_on: bool) -> str:
    """How many particles there are so far."""
    told = f"{summary['kept']:,} of {summary['particles']:,} particles are kept." if summary else ""
    return f"{told} More appear here by themselves." if goes_on else told


def file_times(folder: str) -> Dict[str, int]:
    """Changes when one of the files does that are drawn."""
    paths = [Path(folder, name) for name in DRAWN]
    return {str(path): path.stat().st_mtime_ns for path in paths if path.exists()}
