"""How errors depend on the defocus."""

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import numpy as np

from cryopares_core.plots.figures import COLOURS, say_nothing_yet, styled
from cryopares_core.plots.records import HalfRecord, RunRecord, column

MOST_GROUPS, LEAST_IN_A_GROUP = 12, 10
ANGS_PER_MICROMETRE = 1e4


@dataclass(frozen=True)
class DefocusGroups:
    """Particles of about the same defocus: its median in micrometres, and the quartiles of their errors in degrees `(groups,)`."""

    defocus_um: np.ndarray
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray


def group_by_defocus(half: HalfRecord, n_groups: int = MOST_GROUPS) -> Optional[DefocusGroups]:
    """The particles held out in groups of equal number; None where no defocus is known or all have the same."""
    defocus, error_degs = column(half, "defocus_angs"), column(half, "error_degs")
    if defocus is None or error_degs is None or np.ptp(defocus) == 0:
        return None
    n_groups = int(np.clip(len(defocus) // LEAST_IN_A_GROUP, 1, n_groups))
    groups = np.array_split(np.argsort(defocus, kind="stable"), n_groups)
    quartiles = [np.percentile(error_degs[group], (25, 50, 75)) for group in groups]
    return DefocusGroups(np.array([np.median(defocus[group]) for group in groups]) / ANGS_PER_MICROMETRE, *np.array(quartiles).T)


def has_defocus(record: RunRecord) -> bool:
    """Whether there is a picture to draw."""
    return bool(_grouped(record))


@styled
def draw_defocus(figure: Any, record: RunRecord, title: str = "") -> None:
    """The median error of the particles held out against their defocus, with the middle half of them."""
    found = _grouped(record)
    if not found:
        say_nothing_yet(figure, "The defocus of the particles held out is not known.")
        return
    axes = figure.subplots()
    for name, groups in found:
        colour = COLOURS.get(name, "black")
        axes.fill_between(groups.defocus_um, groups.lower, groups.upper, color=colour, alpha=0.15, linewidth=0)
        axes.plot(groups.defocus_um, groups.median, "o-", color=colour, linewidth=1.6, markersize=4, label=name)
    axes.set(xlabel="Defocus (µm)", ylabel="Angular error (degrees)", ylim=(0, None))
    axes.grid(True, alpha=0.25)
    axes.legend()
    figure.suptitle(title)


def _grouped(record: RunRecord) -> List[Tuple[str, DefocusGroups]]:
    found = [(half.name, group_by_defocus(half)) for half in record.halves.values()]
    return [(name, groups) for name, groups in found if groups is not None]


DEFOCUS_NOTE = "Lines: the median of particles in groups of equal number; bands: the middle half of each group."
