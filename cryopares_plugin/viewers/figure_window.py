"""A window with a matplotlib figure that follows its run."""

import tkinter as tk
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from cryopares_core.plots.records import RunRecord, duration_text, half_line, seconds_left

LOOK_EVERY_MS = 3000
LARGEST_SHARE = 0.9  # of the screen
DPI = 100


class FigureWindow(tk.Toplevel):
    """Draws a run, looks every few seconds whether its files have changed, and draws it again. Ends with its parent.

    Parameters
    ----------
    size_inches : width and height at 100 dots an inch; made smaller where the screen is
    draw : draws a record on a figure
    folder : the run folder, whose files are looked at
    read : reads the run's record anew
    goes_on : whether the run was going on when the window was opened
    """

    drawn_files: Tuple[str, ...] = ("*/metrics.jsonl", "*/simulation/metrics.jsonl", "*/validation.csv", "*/views.csv")

    def __init__(
        self,
        parent: Any,
        title: str,
        size_inches: Tuple[float, float],
        draw: Callable[[Any, RunRecord], None],
        folder: str,
        read: Callable[[], RunRecord],
        goes_on: bool,
    ):
        super().__init__(parent, background="white")
        self.title(title)
        self.draw, self.read, self.goes_on = draw, read, goes_on
        self.drawn = 0  # how often
        self.folder = folder
        self.record: Optional[RunRecord] = None
        self._seen: Dict[str, int] = {}
        self._timer = ""
        self.status = tk.Label(self, anchor="w", justify="left", background="white", foreground="#444444")
        self.figure, self.canvas = self._make_canvas(size_inches)
        self.protocol("WM_DELETE_WINDOW", self.destroy)
        self._follow()

    def destroy(self) -> None:
        """Close the window; it no longer looks at the run."""
        if self._timer:
            self.after_cancel(self._timer)
            self._timer = ""
        super().destroy()

    def _make_canvas(self, size_inches: Tuple[float, float]) -> Tuple[Any, Any]:
        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg, NavigationToolbar2Tk
        from matplotlib.figure import Figure

        width, height = size_inches
        scale = min(1.0, LARGEST_SHARE * self.winfo_screenwidth() / (width * DPI))
        figure = Figure(figsize=(width * scale, height * scale), dpi=DPI, layout="constrained")
        canvas = FigureCanvasTkAgg(figure, master=self)
        NavigationToolbar2Tk(canvas, self, pack_toolbar=False).pack(side="bottom", fill="x")
        self.status.pack(side="bottom", fill="x", padx=8, pady=4)
        canvas.get_tk_widget().pack(side="top", fill="both", expand=True)
        return figure, canvas

    def _follow(self) -> None:
        """Read and draw when there is something new, then look again later."""
        state = self._files()
        if self.record is None or state != self._seen:
            self._seen, self.record = state, self.read()
            self.figure.clear()
            self.draw(self.figure, self.record)
            self.canvas.draw_idle()
            self.drawn += 1
        self.status.configure(text=self._told())
        self._timer = self.after(LOOK_EVERY_MS, self._follow)

    def _files(self) -> Dict[str, int]:
        """Changes when one of the files does that are drawn."""
        paths = [path for pattern in self.drawn_files for path in Path(self.folder).glob(pattern)]
        return {str(path): path.stat().st_mtime_ns for path in paths if path.exists()}

    def _told(self) -> str:
        """The line below the figure."""
        return "" if self.record is None else status_text(self.record, self.goes_on)


def status_text(record: RunRecord, goes_on: bool) -> str:
    """How far each half set is, and the time left."""
    lines = [half_line(half, record) for half in record.halves.values()]
    left = seconds_left(record)
    if record.finished:
        lines.append("The run is finished.")
    elif not goes_on:
        lines.append("The run ended before its last epoch.")
    elif left:
        lines.append(f"About {duration_text(left)} left. New epochs appear here by themselves.")
    return "\n".join(lines)
