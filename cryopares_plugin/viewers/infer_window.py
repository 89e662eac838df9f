"""A window with a figure of an inference, which is drawn again when more batches are finished."""

from typing import Any, Dict, Tuple

from cryopares_core.plots.inference import FILE, RECONSTRUCTION, VIEWS
from cryopares_plugin.viewers.figure_window import FigureWindow


class InferenceWindow(FigureWindow):
    """Follows the folder of an inference as `FigureWindow` does that of a training."""

    drawn_files: Tuple[str, ...] = (FILE, VIEWS, f"{RECONSTRUCTION}/fsc.csv", f"{RECONSTRUCTION}/map.mrc")
    record: Any

    def _told(self) -> str:
        return status_text(self.record.summary, self.goes_on)


def status_text(summary: Dict[str, int], goes_on: bool) -> str:
    """How many particles there are so far."""
    told = f"{summary['kept']:,} of {summary['particles']:,} particles are kept." if summary else ""
    return f"{told} More appear here by themselves." if goes_on else told
