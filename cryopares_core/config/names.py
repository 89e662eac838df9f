"""Finding the parameter that a user meant."""

import difflib
from typing import Iterable, List


def nearest(wanted: str, names: Iterable[str], most: int = 4) -> List[str]:
    """The names that `wanted` may stand for, best first, without regard to case.

    A name whose last parts are exactly `wanted` (`lmax` for `models.image2sphere.lmax`) beats any that is only alike.
    """
    names = list(names)
    low = wanted.lower()
    endings = [name for name in names if ("." + name.lower()).endswith("." + low)]
    if endings:
        return endings[:most]
    last = low.rpartition(".")[2]
    same_last = [name for name in names if "." in name and name.lower().rpartition(".")[2] == last]
    likeness = _likeness_of_whole if same_last else _likeness
    scored = sorted(((likeness(low, name.lower()), name) for name in (same_last or names)), reverse=True)
    best = scored[0][0] if scored else 0.0
    return [name for score, name in scored if score >= best - 0.1 and best >= (0.0 if same_last else 0.6)][:most]


def did_you_mean(wanted: str, names: Iterable[str]) -> str:
    """` Did you mean a, b or c?`, or nothing where no name is near."""
    found = nearest(wanted, names)
    if not found:
        return ""
    text = found[0] if len(found) == 1 else ", ".join(found[:-1]) + " or " + found[-1]
    return f" Did you mean {text}?"


def _likeness(wanted: str, name: str) -> float:
    """How alike two names are, 0 to 1: as a whole, or in their last parts, which people remember best."""
    ends = _likeness_of_whole(wanted.rpartition(".")[2], name.rpartition(".")[2])
    return max(_likeness_of_whole(wanted, name), 0.99 * ends)


def _likeness_of_whole(wanted: str, name: str) -> float:
    return difflib.SequenceMatcher(None, wanted, name).ratio()
