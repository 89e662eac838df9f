"""What is ordinary in a set of particles, and the sentence where it is not: for `cryopares_check` and for Scipion's forms.

Columns are numpy arrays; numpy itself is imported where it is needed.
"""

from typing import Any, Callable, List, Mapping, NamedTuple, Tuple

ANGS_PER_MICROMETRE = 1e4
VOLTAGES_KV = (60, 80, 100, 120, 160, 200, 300, 400)
UNEVEN = 1.5  # one half set over the other
SAME_PLACE_ANGS = 5.0
BY_CHANCE = 1e-3
MOST_NEIGHBOURS = 50
ENOUGH_TO_VARY = 100

First = Callable[[int], str]


class Limits(NamedTuple):
    """Between what a parameter lies in nearly all data, and what to do where it doesn't."""

    what: str
    low: float
    high: float
    unit: str
    remedy: str


DEFOCUS = Limits("a defocus", 1000, 60_000, "Å", "Estimate their CTF again, or take them out.")
ASTIGMATISM = Limits("an astigmatism", 0, 5000, "Å", "Estimate their CTF again, or take them out.")
MICROSCOPE = {
    "cs_mm": Limits("a spherical aberration", 0, 5, "mm", "Look it up: most microscopes have 0.01 to 2.7 mm."),
    "amplitude_contrast": Limits("an amplitude contrast", 0.01, 0.4, "", "0.07 to 0.1 is usual for particles in ice."),
    "phase_shift_deg": Limits("a phase shift", -10, 190, "degrees", "Without a phase plate it is 0."),
}


def outside(values: Any, limits: Limits, first: First) -> List[str]:
    """A sentence where some values `(n,)` lie outside the limits. `first` names the particle of a row."""
    wrong = (values < limits.low) | (values > limits.high)
    count = int(wrong.sum())
    if not count:
        return []
    row, unit = int(wrong.argmax()), f" {limits.unit}" if limits.unit else ""
    return [
        f"{count:,} of {len(values):,} particles have {limits.what} that is not between {limits.low:,g} and {limits.high:,g}{unit} "
        f"(first: {values[row]:,.6g}{unit}, {first(row)}). {limits.remedy}"
    ]


def ctf_doubts(columns: Mapping[str, Any], first: First) -> List[str]:
    """What is out of the ordinary in CTF parameters: arrays `(n,)` by the names of `CtfParameters`, any of them left out."""
    found = []
    if "defocus_u_angs" in columns and "defocus_v_angs" in columns and len(columns["defocus_u_angs"]):
        found += _defocus_doubts(columns["defocus_u_angs"], columns["defocus_v_angs"], first)
    if "voltage_kv" in columns:
        found += _voltage_doubts(columns["voltage_kv"])
    for name, limits in MICROSCOPE.items():
        found += outside(columns[name], limits, first) if name in columns else []
    return found


def _defocus_doubts(u: Any, v: Any, first: First) -> List[str]:
    """One cause is told once: in micrometres, all values are also too small."""
    mean = (u + v) / 2
    largest = abs(mean).max()
    if 0 < largest < 100:
        return [f"The defoci go up to {largest:.3g}: they look like µm, and are in Å in RELION's files. Multiply them by 10,000."]
    if int((mean < 0).sum()) > len(mean) / 2:
        return ["Most defoci are negative: underfocus is positive in RELION's files. Change their sign."]
    if len(mean) >= ENOUGH_TO_VARY and u.max() == u.min() and v.max() == v.min():
        return [f"All particles have the same defocus ({mean[0]:,.0f} Å): it was hardly estimated. Estimate the CTF."]
    return outside(mean, DEFOCUS, first) + outside(abs(u - v), ASTIGMATISM, first)


def _voltage_doubts(voltage_kv: Any) -> List[str]:
    values = sorted({value for value in voltage_kv.tolist() if value == value})
    odd = [value for value in values if not any(abs(value / usual - 1) < 0.02 for usual in VOLTAGES_KV)]
    return [f"A voltage of {value:g} kV is unusual. Look it up." for value in odd[:3]]


def half_set_doubts(sizes: Tuple[int, int]) -> List[str]:
    """Half sets 1 and 2 of very different size."""
    low, high = min(sizes), max(sizes)
    if not low or high <= UNEVEN * low:
        return []
    return [
        f"The half sets differ in size: {sizes[0]:,} and {sizes[1]:,} particles. The smaller one's model will be worse. Was only a "
        "part of the particles taken along?"
    ]


def shared_pictures(count: int, first: str) -> List[str]:
    """Pictures that stand in both half sets."""
    return [f"{count:,} pictures stand in both half sets (first: {first}). {_NOT_INDEPENDENT}"] if count else []


def shared_places(count: int, n_first: int, first: str) -> List[str]:
    """Different pictures of one particle, `count` of the `n_first` of half set 1. A few lie together by chance."""
    if count <= BY_CHANCE * n_first:
        return []
    return [
        f"{count:,} particles of half set 1 lie within {SAME_PLACE_ANGS:g} Å of one of half set 2 in the same micrograph (first: "
        f"{first}): they were picked twice. {_NOT_INDEPENDENT}"
    ]


_NOT_INDEPENDENT = (
    "The half sets are then not independent, and their maps agree too well. Remove duplicates (RELION: Subset selection), then "
    "refine again."
)


def close_across_halves(micrograph: Any, xy_angs: Any, half_set: Any) -> Any:
    """The rows of half set 1 whose particle lies where one of half set 2 lies, sorted.

    Parameters
    ----------
    micrograph : `(n,)` whole numbers
    xy_angs : `(n, 2)` the particles' centres in their micrographs, Å; nan where not known
    half_set : `(n,)` 1 or 2
    """
    import numpy as np

    known = np.flatnonzero(np.isfinite(xy_angs).all(axis=1))
    if not len(known) or np.ptp(xy_angs[known], axis=0).max() == 0:  # filled in, not measured
        return known[:0]
    order = known[np.lexsort((xy_angs[known, 0], micrograph[known]))]
    mic, xy, half = micrograph[order], xy_angs[order], half_set[order]
    found = np.zeros(len(order), dtype=bool)
    # In this order a particle's mates follow within a few places; coordinates that are no places end the search.
    for step in range(1, min(MOST_NEIGHBOURS, len(order))):
        beside = np.flatnonzero((mic[step:] == mic[:-step]) & (xy[step:, 0] - xy[:-step, 0] <= SAME_PLACE_ANGS))
        if not len(beside):
            break
        away = np.hypot(*(xy[beside + step] - xy[beside]).T)
        pairs = beside[(away <= SAME_PLACE_ANGS) & (half[beside] != half[beside + step])]
        found[pairs] |= half[pairs] == 1
        found[pairs + step] |= half[pairs + step] == 1
    return np.sort(order[found])
