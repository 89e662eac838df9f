"""A window with a matplotlib figure that follows its run."""

import os
import tkinter as tk
from typing import Any, Callable, Tuple

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
    read : reads the run's record anew
    """

    def __init__(
        self,
        parent: Any,
        title: str,
        size_inches: Tuple[float, float],
        draw: Callable[[Any, RunRecord], None],
        read: Callable[[], RunRecord],
    ):
        super().__init__(parent, background="white")
        self.title(title)
        self.draw, self.read = draw, read
        self.drawn = 0  # how often
        self._seen: Any = None
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
        """Draw when there is something new, then look again later."""
        record = self.read()
        state = _state(record)
        if state != self._seen:
            self._seen = state
            self.figure.clear()
            self.draw(self.figure, record)
            self.canvas.draw_idle()
            self.drawn += 1
        self.status.configure(text=status_text(record))
        self._timer = self.after(LOOK_EVERY_MS, self._follow)


def status_text(record: RunRecord) -> str:
    """How far each half set is, and the time left."""
    lines = [half_line(half, record) for half in record.halves.values()]
    left = seconds_left(record)
    if record.finished:
        lines.append("The run is finished.")
    elif left:
        lines.append(f"About {duration_text(left)} left if the run is going on; new epochs appear here by themselves.")
    return "\n".join(lines)


def _state(record: RunRecord) -> Any:
    """Changes when one of the files does that are drawn."""
    found = {}
    for half in record.halves.values():
        for name in ("metrics.jsonl", "validation.csv", "views.csv", os.path.join("simulation", "metrics.jsonl")):
            path = half.folder / name
            found[str(path)] = path.stat().st_mtime_ns if path.exists() else 0
    return found
