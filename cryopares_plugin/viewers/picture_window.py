"""A window with a picture from a file, as large as the window."""

import tkinter as tk
from typing import Any

from PIL import Image, ImageTk

LARGEST_SHARE = 0.85  # of the screen


class PictureWindow(tk.Toplevel):
    """Shows a PNG file; the picture keeps its proportions and grows and shrinks with the window."""

    def __init__(self, parent: Any, title: str, path: str):
        super().__init__(parent, background="white")
        self.title(title)
        with Image.open(path) as picture:
            self.picture = picture.convert("RGB")
        self.label = tk.Label(self, background="white", borderwidth=0)
        self.label.pack(fill="both", expand=True)
        width, height = self._fitting(LARGEST_SHARE * self.winfo_screenwidth(), LARGEST_SHARE * self.winfo_screenheight())
        self.geometry(f"{width}x{height}")
        self.label.bind("<Configure>", self._fit)
        self.protocol("WM_DELETE_WINDOW", self.destroy)

    def _fit(self, event: Any) -> None:
        size = self._fitting(event.width, event.height)
        self.shown = ImageTk.PhotoImage(self.picture.resize(size, Image.LANCZOS), master=self)
        self.label.configure(image=self.shown)

    def _fitting(self, width: float, height: float) -> Any:
        """The largest size in pixels, no larger than the picture itself, that has its proportions and fits."""
        own_width, own_height = self.picture.size
        scale = min(1.0, width / own_width, height / own_height)
        return max(1, int(own_width * scale)), max(1, int(own_height * scale))
