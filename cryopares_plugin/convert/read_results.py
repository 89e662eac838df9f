"""What the core found back into Scipion: poses, confidence and half sets out of a STAR file, and onto the particles of a set."""

from itertools import dropwhile, islice, takewhile
from typing import Any, Iterator, List, NamedTuple, Tuple

import numpy as np
from pwem.objects import Transform
from pyworkflow.object import Float, Integer

from cryopares_core.errors import UserError
from cryopares_plugin.convert.columns import ANGLES, ORIGINS
from cryopares_plugin.convert.poses import matrices_of_poses

# RELION's names, so that a STAR file of the set has these columns again.
CONFIDENCE, HALF_SET = "rlnParticleFigureOfMerit", "rlnRandomSubset"
DISAGREEMENT = "rlnPoseConsensusAngularError"  # only where the half models were compared
COLUMNS = ("rlnImageId", *ANGLES, *ORIGINS, CONFIDENCE, HALF_SET)
AT_ONCE = 10_000  # particles: the input's file is locked for no longer than it takes to copy so many


class Found(NamedTuple):
    """What is known of some particles.

    Attributes
    ----------
    ids : `(n,)` Scipion's, rising
    angles_degs : `(n, 3)` rot, tilt, psi
    origins_angs : `(n, 2)` x, y
    confidence : `(n,)` the probability that the pose is right
    half_set : `(n,)` 1 or 2
    disagreement_degs : `(n,)` of the poses by the models of both half sets; NaN where these were not compared
    """

    ids: np.ndarray
    angles_degs: np.ndarray
    origins_angs: np.ndarray
    confidence: np.ndarray
    half_set: np.ndarray
    disagreement_degs: np.ndarray

    def only(self, chosen: Any) -> "Found":
        """Those that a mask `(n,)` or a slice chooses."""
        return Found(*(column[chosen] for column in self))

    def without(self, ids: np.ndarray) -> "Found":
        """All but those of some ids."""
        return self.only(~np.isin(self.ids, ids))


def read_found(star_path: str) -> Found:
    """The particles of a STAR file that the core has made of one of ours.

    Raises
    ------
    UserError : the file cannot be read, or lacks a column.
    """
    try:
        with open(star_path, encoding="utf-8") as file:
            table = _numbers(*_particles(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{star_path}: cannot be read ({error}). Remove its folder, and continue the run.") from error
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Found(table[:, 0].astype(np.int64), table[:, 1:4], table[:, 4:6], table[:, 6], table[:, 7].astype(np.int64), table[:, 8])


def _numbers(names: List[str], rows: List[str]) -> np.ndarray:
    """The values of COLUMNS and of the disagreement, `(n, 9)`."""
    places = [names.index(name) for name in (*COLUMNS, *(name for name in [DISAGREEMENT] if name in names))]
    table = np.full((len(rows), len(COLUMNS) + 1), np.nan)
    if rows:  # numpy would warn of none
        table[:, : len(places)] = np.loadtxt(rows, usecols=places, comments=None, quotechar='"', ndmin=2)
    return table


def _particles(lines: Iterator[str]) -> Tuple[List[str], List[str]]:
    """The names of the particles' columns, and the lines of their rows."""
    in_table = dropwhile(lambda line: line.split() != ["data_particles"], lines)
    told = [line for line in islice(in_table, 1, None) if line.strip() and line.strip() != "loop_"]
    names = [line.split()[0][1:] for line in takewhile(lambda line: line.startswith("_"), told)]
    return names, told[len(names) :]


def copy_found(particles: Any, found: Found, target: Any) -> None:
    """Append the particles of `found`, with all that they have, their new poses and the rest, to another set.

    Parameters
    ----------
    particles : the set that they come from
    target : a set with projection alignment, ready to be appended to
    """
    target.copyItems(_posed(particles, found), copyDisabled=True, doClone=False)


def _posed(particles: Any, found: Found) -> Iterator[Any]:
    """The particles of `found`. They are looked for in ranges of ids, since a growing set may have others between them."""
    for start in range(0, len(found.ids), AT_ONCE):
        part = found.only(slice(start, start + AT_ONCE))
        matrices = matrices_of_poses(part.angles_degs, part.origins_angs / particles.getSamplingRate())
        columns = (part.confidence, part.half_set, part.disagreement_degs)
        rows = dict(zip(part.ids.tolist(), zip(matrices, *(column.tolist() for column in columns))))
        for item in particles.iterItems(orderBy="id", where=f"id BETWEEN {part.ids[0]} AND {part.ids[-1]}"):
            row = rows.get(item.getObjId())
            if row is not None:
                _update(item, *row)
                yield item


def _update(item: Any, matrix: np.ndarray, confidence: float, half_set: int, disagreement_degs: float) -> None:
    item.setTransform(Transform(matrix))
    _set(item, CONFIDENCE, Float, confidence)
    _set(item, HALF_SET, Integer, half_set)
    if not np.isnan(disagreement_degs):
        _set(item, DISAGREEMENT, Float, disagreement_degs)


def _set(item: Any, name: str, kind: Any, value: Any) -> None:
    """Give a value to an attribute, in the place of an earlier one of another kind too."""
    attribute = getattr(item, f"_{name}", None)
    if isinstance(attribute, kind):
        attribute.set(value)
    else:
        setattr(item, f"_{name}", kind(value))
