"""Learning curves: loss, errors and learning rate against epochs."""

from typing import Any, Callable, List, Sequence, Tuple

from cryopares_core.plots.figures import COLOURS, GREY, new_figure, save_png, say_nothing_yet, styled
from cryopares_core.plots.readers import Epoch
from cryopares_core.plots.records import HalfRecord, RunRecord
from cryopares_core.plots.remarks import FULL_NOISE

LINES = {
    "loss": [("loss", "training", "--"), ("val_loss", "validation", "-")],
    "error": [("val_geo_degs", "mean", "-"), ("val_median_geo_degs", "median", ":")],
    "rate": [("lr", "", "-")],
}
TITLES = {
    "loss": ("Loss", "Loss (nats)"),
    "error": ("Error of held-out particles", "Angular error (degrees)"),
    "rate": ("Learning rate", "Learning rate"),
}
PANELS = tuple(LINES)
FEW_TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
MANY_TICKS = [step * 10.0**power for power in (-1, 0, 1, 2) for step in (1, 1.5, 2, 3, 4, 5, 6, 8)]
WIDE = 6.0


@styled
def draw_learning_curves(figure: Any, record: RunRecord, title: str = "", names: Sequence[str] = PANELS) -> None:
    """Three panels: loss of training and validation, mean and median validation error, learning rate; or some of them by name.

    Epochs of pretraining on simulated views stand left of 0, on a shaded ground, as do those that took noise off the particles.
    The best epoch is ringed.
    """
    panels = dict(zip(names, figure.subplots(1, len(names), squeeze=False)[0]))
    for half in record.halves.values():
        for name, axes in panels.items():
            _draw_half(axes, half, LINES[name], one_of_many=len(record.halves) > 1)
    for name, axes in panels.items():
        _finish(axes, *TITLES[name], record)
    if "error" in panels:
        _degrees(panels["error"])
    if "rate" in panels:
        panels["rate"].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if not any(axes.lines for axes in panels.values()):
        say_nothing_yet(figure, "The first epoch has not ended yet.")
    figure.suptitle(title)


def save_learning_curves(record: RunRecord) -> None:
    """`learning_curves.png` in the run's folder."""
    figure = new_figure(12.5, 4.0)
    draw_learning_curves(figure, record, f"Training, symmetry {record.symmetry}")
    save_png(figure, record.folder / "learning_curves.png")


def _draw_half(axes: Any, half: HalfRecord, lines: List[Tuple[str, str, str]], one_of_many: bool) -> None:
    colour = COLOURS.get(half.name, "black")
    for key, word, style in lines:
        label = " ".join(part for part in (half.name if one_of_many or not word else "", word) if part)
        look = {"color": colour, "linewidth": 1.6, "markersize": 3, "linestyle": style}
        _curve(axes, half.simulation, key, lambda epoch: epoch - len(half.simulation), dict(look, marker="s", alpha=0.6))
        _curve(axes, half.epochs, key, float, dict(look, marker="o", label=label))
        if half.best and key in half.best and key.startswith("val"):
            axes.plot(half.best["epoch"], half.best[key], "o", markersize=9, markerfacecolor="none", color=colour)


def _curve(axes: Any, epochs: List[Epoch], key: str, place: Callable[[float], float], look: Any) -> None:
    points = [(place(line["epoch"]), line[key]) for line in epochs if key in line]
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], **look)


def _finish(axes: Any, title: str, y_label: str, record: RunRecord) -> None:
    simulated = max([len(half.simulation) for half in record.halves.values()], default=0)
    _shade(axes, 0.5 - simulated, 0.5, "simulated ", "right")
    eased = [line["epoch"] for half in record.halves.values() for line in half.epochs if line.get("noise", 1.0) < FULL_NOISE]
    _shade(axes, 0.5, max(eased, default=0) + 0.5, " less noise", "left")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="Epoch", ylabel=y_label, title=title)
    axes.grid(True, which="major", alpha=0.25)
    if axes.lines:
        axes.legend()


def _shade(axes: Any, start: float, end: float, text: str, side: str) -> None:
    """Name the epochs between two places, on a shaded ground."""
    if end > start:
        axes.axvspan(start, end, color=GREY, alpha=0.12, linewidth=0)
        axes.text(0.5, 1.0, text, transform=axes.get_xaxis_transform(), ha=side, va="top", fontsize=8, color=GREY)


def _degrees(axes: Any) -> None:
    """A logarithmic axis of angles with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("log")
    values = [y for line in axes.lines for y in line.get_ydata()]
    ticks = FEW_TICKS if not values or max(values) > WIDE * min(values) else MANY_TICKS
    axes.yaxis.set(
        major_locator=FixedLocator(ticks), minor_locator=NullLocator(), major_formatter=FuncFormatter(lambda y, _: f"{y:g}")
    )
    if values:
        axes.set_ylim(min(values) / 1.3, max(values) * 1.3)
