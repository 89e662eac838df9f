"""An average particle with circles over it, one of which is drawn with the mouse."""

import tkinter as tk
from typing import Any, Callable, Optional

from PIL import Image, ImageTk

from cryopares_plugin.wizards.average import Average, grey, low_passed

SIDE_PX = 380
CIRCLE, FRAME = "#ffb000", "#40c4ff"
SMALLEST_RADIUS_PX = 1.0


class ParticleCanvas(tk.Canvas):
    """The average of some particles, low-passed; a circle of a radius in Å, and a square frame of a side in Å.

    Parameters
    ----------
    on_radius : called with a radius in Å when the user draws one with the mouse or turns its wheel
    """

    def __init__(self, parent: Any, average: Average, on_radius: Callable[[float], None]):
        super().__init__(parent, width=SIDE_PX, height=SIDE_PX, highlightthickness=0, background="black", cursor="crosshair")
        self.angs_per_screen_px = average.box_px * average.pixel_size_angs / SIDE_PX
        self.on_radius, self.radius_angs = on_radius, 0.0
        picture = Image.fromarray(grey(low_passed(average.picture, average.pixel_size_angs)))
        self.shown = ImageTk.PhotoImage(picture.resize((SIDE_PX, SIDE_PX), Image.BICUBIC), master=self)
        self.create_image(0, 0, image=self.shown, anchor="nw")
        for event in ("<Button-1>", "<B1-Motion>"):
            self.bind(event, self._draw)
        self.bind("<Button-4>", lambda _: self._turn(1))
        self.bind("<Button-5>", lambda _: self._turn(-1))

    def show_radius(self, radius_angs: Optional[float]) -> None:
        """Draw the circle, or none."""
        self.radius_angs = radius_angs or 0.0
        self._shape("circle", self.create_oval, self.radius_angs, CIRCLE)

    def show_frame(self, side_angs: Optional[float]) -> None:
        """Draw the frame of the network's box, or none."""
        self._shape("frame", self.create_rectangle, (side_angs or 0.0) / 2, FRAME)

    def _shape(self, tag: str, create: Callable[..., Any], half_angs: float, colour: str) -> None:
        self.delete(tag)
        half = half_angs / self.angs_per_screen_px
        if half > 0:
            corners = (SIDE_PX / 2 - half, SIDE_PX / 2 - half, SIDE_PX / 2 + half, SIDE_PX / 2 + half)
            # A frame that is as large as the picture is drawn just inside, where it can be seen.
            create(
                *[min(max(place, 1), SIDE_PX - 2) for place in corners] if tag == "frame" else corners,
                outline=colour,
                width=2,
                tags=tag,
            )

    def _draw(self, event: Any) -> None:
        middle = SIDE_PX / 2
        radius = max(SMALLEST_RADIUS_PX, ((event.x - middle) ** 2 + (event.y - middle) ** 2) ** 0.5)
        self.on_radius(radius * self.angs_per_screen_px)

    def _turn(self, step: int) -> None:
        self.on_radius(max(self.angs_per_screen_px, self.radius_angs + step * self.angs_per_screen_px))
