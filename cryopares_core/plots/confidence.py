"""The network's confidence beside the errors of the particles held out."""

from typing import Any, List, Sequence, Tuple

import numpy as np

from cryopares_core.plots.calibration import FOLDS, calibration_gap, cross_fitted, equal_bins, fit_isotonic
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.plots.figures import COLOURS, GREY, say_nothing_yet, styled
from cryopares_core.plots.records import HalfRecord, RunRecord, column

LEAST_PARTICLES = 20
KEPT = np.linspace(0.1, 1.0, 37)
ROOM_FOR_LEGEND = 1.3
PANELS = ("calibration", "selection")
Validated = Tuple[str, np.ndarray, np.ndarray]  # a half set's name, the confidences of its particles held out, and their errors


def has_confidence(record: RunRecord) -> bool:
    """Whether enough particles with a confidence have been validated."""
    return bool(_validated(record))


@styled
def draw_confidence(figure: Any, record: RunRecord, title: str = "", names: Sequence[str] = PANELS) -> None:
    """Two panels: stated confidence against the share under 5°, and the errors of the particles with the highest confidence; or
    one of them by name.
    """
    halves = _validated(record)
    if not halves:
        say_nothing_yet(figure, f"This needs {LEAST_PARTICLES} particles held out, validated by this version of the program.")
        return
    draw = dict(zip(PANELS, (_draw_calibrations, _draw_selections)))
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0]):
        draw[name](axes, halves)
        axes.grid(True, alpha=0.25)
    figure.suptitle(title)


def gap_text(half: HalfRecord) -> str:
    """How far stated confidence is from what came true, as it stands and corrected; empty where too few were validated."""
    found = _of_half(half)
    if found is None:
        return ""
    stated, hit = found[0], found[1] < GOOD_DEGS
    return (
        f"{half.name}: stated confidence is {100 * calibration_gap(stated, hit):.0f} points off on average, "
        f"{100 * calibration_gap(cross_fitted(stated, hit), hit):.0f} after the correction."
    )


def _validated(record: RunRecord) -> List[Validated]:
    found = [(half.name, _of_half(half)) for half in record.halves.values()]
    return [(name, *columns) for name, columns in found if columns is not None]


def _of_half(half: HalfRecord) -> Any:
    """Confidence and error in degrees `(n,)`; None where there are too few."""
    confidence, error_degs = column(half, "confidence"), column(half, "error_degs")
    if confidence is None or error_degs is None or len(confidence) < LEAST_PARTICLES:
        return None
    return confidence, error_degs


def _draw_calibrations(axes: Any, halves: List[Validated]) -> None:
    for name, confidence, error_degs in halves:
        _draw_calibration(axes, name, confidence, error_degs < GOOD_DEGS)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, zorder=0)
    widest = max(float(confidence.max()) for _, confidence, _ in halves)
    axes.set(xlim=(0, min(100.0, 108 * widest)), ylim=(0, 102), title="Does confidence come true?")
    axes.set(xlabel="Stated confidence (%)", ylabel=f"Particles under {GOOD_DEGS:.0f}° (%)")
    axes.legend(loc="lower right")


def _draw_selections(axes: Any, halves: List[Validated]) -> None:
    for name, confidence, error_degs in halves:
        _draw_selection(axes, name, confidence, error_degs)
    axes.set(xlim=(0, 100), ylim=(0, ROOM_FOR_LEGEND * axes.get_ylim()[1]), title="Errors of the surest particles")
    axes.set(xlabel="Particles kept, the surest first (%)", ylabel="Median error (degrees)")
    axes.legend(loc="upper left", ncols=2)


def _draw_calibration(axes: Any, name: str, confidence: np.ndarray, hit: np.ndarray) -> None:
    colour, bins, curve = COLOURS.get(name, "black"), equal_bins(confidence, hit), fit_isotonic(confidence, hit)
    axes.plot(100 * bins.stated, 100 * bins.true, "o", color=colour, markersize=5, label=name)
    axes.vlines(100 * bins.stated, *(100 * end for end in bins.interval), color=colour, linewidth=1)
    axes.plot(100 * curve.stated, 100 * curve.true, color=colour, linewidth=1.4, alpha=0.75)


def _draw_selection(axes: Any, name: str, confidence: np.ndarray, error_degs: np.ndarray) -> None:
    """Medians of the surest particles; dashed, of the best ones that could have been chosen."""
    colour, counts = COLOURS.get(name, "black"), np.maximum(1, np.round(KEPT * len(error_degs))).astype(int)
    surest, best = error_degs[np.argsort(-confidence, kind="stable")], np.sort(error_degs)
    for errors, look, label in ((surest, "-", name), (best, ":", f"{name}, errors known")):
        medians = [np.median(errors[:count]) for count in counts]
        axes.plot(100 * KEPT, medians, look, color=colour, linewidth=1.6, label=label)


CONFIDENCE_NOTE = (
    f"A particle's confidence is the probability that the network gives to poses within {GOOD_DEGS:.0f}° of the one that it found. "
    "Dots: particles in groups of equal number, with 95 % intervals; on the grey diagonal, confidence means what it says. Labels "
    "have a width, so that it is usually too low: what counts is its order. The line corrects it (isotonic regression). For the "
    f"figures below, each particle is corrected by a line fitted to the others, in {FOLDS} parts."
)
