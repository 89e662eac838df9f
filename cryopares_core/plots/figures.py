"""What all pictures share: colours, type sizes, and figures that need no screen."""

import functools
import io
from pathlib import Path
from typing import Any, Callable, TypeVar, Union, cast

from cryopares_core.files import atomic_path

BLUE, ORANGE, GREEN, GREY = "#1f6fb4", "#d1601f", "#2a8f5b", "#888888"
COLOURS = {"half1": BLUE, "half2": ORANGE, "allParticles": BLUE, "simulated": GREEN}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
}
DPI = 130
SCREEN_DPI = 90
Draw = TypeVar("Draw", bound=Callable[..., None])


def styled(draw: Draw) -> Draw:
    """A drawing function that uses our type sizes and lines, whatever matplotlib is set to elsewhere."""

    @functools.wraps(draw)
    def with_style(*args: Any, **kwargs: Any) -> None:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            draw(*args, **kwargs)

    return cast(Draw, with_style)


def new_figure(width_inches: float, height_inches: float) -> Any:
    """An empty figure that is drawn in memory; a viewer with a window of its own makes its figure itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, path: Union[str, Path]) -> None:
    """Write a figure as PNG, all of it or nothing."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def png_bytes(figure: Any) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    return content.getvalue()


def rgb_array(figure: Any) -> Any:
    """A figure as pixels `(height, width, 3)` uint8, at a lower resolution than that of files."""
    import numpy

    figure.set_dpi(SCREEN_DPI)
    figure.canvas.draw()
    return numpy.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def say_nothing_yet(figure: Any, text: str) -> None:
    """An empty figure that says why it is empty."""
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=11)
