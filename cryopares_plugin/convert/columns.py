"""The columns of a STAR file's particles, and their values out of a block of a set's rows."""

from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import numpy as np
from pwem.constants import ALIGN_2D, ALIGN_PROJ

from cryopares_core.errors import UserError
from cryopares_plugin.convert.halves import HalfSets, half_set_label
from cryopares_plugin.convert.optics import KEY_LABELS, OpticsTable
from cryopares_plugin.convert.poses import angles_and_shifts, are_poses, origins_px, read_matrices
from cryopares_plugin.convert.rows import Block, ParticleRows
from cryopares_plugin.convert.star import words

MATRIX = "_transform._matrix"
ANGLES, ORIGINS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), ("rlnOriginXAngst", "rlnOriginYAngst")
POSE = (*ANGLES, *ORIGINS)
DEFOCUS = {
    "rlnDefocusU": "_ctfModel._defocusU",
    "rlnDefocusV": "_ctfModel._defocusV",
    "rlnDefocusAngle": "_ctfModel._defocusAngle",
}
NUMBERS = {
    "rlnPhaseShift": "_ctfModel._phaseShift",
    "rlnCtfMaxResolution": "_ctfModel._resolution",
    "rlnCtfFigureOfMerit": "_ctfModel._fitQuality",
    "rlnCoordinateX": "_coordinate._x",
    "rlnCoordinateY": "_coordinate._y",
}
MICROGRAPHS = ("_coordinate._micName", "_coordinate._micId", "_micId")
# Attributes that came from RELION and may be of an earlier step: the set, the matrix and the optics table say it better.
TOLD_ELSEWHERE = {
    *POSE,
    *("rlnOriginX", "rlnOriginY", "rlnOriginZ", "rlnOriginZAngst", "rlnImageName", "rlnImageId", "rlnOpticsGroup", "rlnEnabled"),
    *("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize"),
    *("rlnPixelSize", "rlnImagePixelSize", "rlnImageSize", "rlnRandomSubset"),
}
WHOLE, REAL, TEXT = "%d", "%.6f", "%s"
FORMATS = {"Integer": WHOLE, "Boolean": WHOLE, "Float": "%.9g", "String": TEXT}


class Column(NamedTuple):
    """A column: its name, the printf format of its values, and how they come from those of some attributes."""

    name: str
    format: str
    labels: Tuple[str, ...]
    values: Callable[..., Sequence[Any]]


class ParticleColumns:
    """The columns that a set's particles fill.

    Parameters
    ----------
    sampling_rate : Å/px
    stack_name : from a stack's name in Scipion to that in the STAR file
    draws_halves, seed : whether particles without a half set get one
    alignment : the set's
    poses : whether poses are written; else only origins are, where an alignment has them
    """

    def __init__(
        self,
        rows: ParticleRows,
        optics: OpticsTable,
        sampling_rate: float,
        stack_name: Callable[[str], str],
        draws_halves: bool,
        seed: int,
        alignment: str = ALIGN_PROJ,
        poses: bool = True,
    ):
        self.halves = HalfSets(seed)
        self._in_plane = alignment == ALIGN_2D
        self._number_of_group, self._sampling_rate, self._stack_name = optics.number_of, sampling_rate, stack_name
        columns = [
            Column("rlnImageId", WHOLE, ("id",), lambda ids: ids),
            Column("rlnImageName", TEXT, ("_index", "_filename"), self._picture_names),
            Column("rlnOpticsGroup", WHOLE, KEY_LABELS, lambda *key: [self._number_of_group[each] for each in zip(*key)]),
            *self._half_sets(rows, draws_halves),
            *(Column(name, REAL, ("id", label), _defocus) for name, label in DEFOCUS.items() if label in rows),
            *(_plain(name, REAL, label) for name, label in NUMBERS.items() if rows.has(label)),
            *(_plain("rlnMicrographName", TEXT, label) for label in MICROGRAPHS if rows.has(label)),
            *_relions(rows),
            *(_plain("rlnClassNumber", WHOLE, label) for label in ["_classId"] if rows.has(label)),
        ]
        firsts = {column.name: column for column in reversed(columns)}
        self._columns = [column for column in columns if firsts[column.name] is column]
        self._placed = POSE if poses else ORIGINS if alignment in (ALIGN_2D, ALIGN_PROJ) else ()
        self.names = [*(column.name for column in self._columns), *self._placed]
        self.formats = [*(column.format for column in self._columns), *(REAL for _ in self._placed)]
        self.labels = list(dict.fromkeys(["id", MATRIX, *(label for column in self._columns for label in column.labels)]))

    def values(self, block: Block) -> List[Sequence[Any]]:
        """The values of each column for a block of particles.

        Raises
        ------
        UserError : a particle has no pose, or no CTF where others have one; a stack cannot be read.
        """
        plain = [column.values(*(block[label] for label in column.labels)) for column in self._columns]
        return [*plain, *self._places(block["id"], block[MATRIX])]

    def _places(self, ids: Sequence[int], texts: Sequence[Any]) -> List[List[float]]:
        """Poses, or origins alone, or nothing."""
        if self._placed == POSE:
            return self._poses(ids, texts)
        origins = origins_px(read_matrices(texts), self._in_plane) * self._sampling_rate
        return origins.T.tolist() if self._placed else []

    def _picture_names(self, indices: Sequence[int], files: Sequence[str]) -> List[str]:
        names = {file: self._stack_name(file) for file in dict.fromkeys(files)}
        return words(f"{index or 1:06d}@{names[file]}" for index, file in zip(indices, files))

    def _half_sets(self, rows: ParticleRows, draws: bool) -> List[Column]:
        label = half_set_label(rows)
        return [Column("rlnRandomSubset", WHOLE, (label or "",), self.halves.of)] if label or draws else []

    def _poses(self, ids: Sequence[int], texts: Sequence[Any]) -> List[List[float]]:
        matrices = read_matrices(texts)
        bad = np.flatnonzero(~are_poses(matrices))
        if len(bad):
            what = "has no pose" if texts[bad[0]] is None else "has a matrix that is no rotation (mirrored or scaled)"
            raise UserError(
                f"The particle with id {ids[bad[0]]} {what}, as have {len(bad) - 1:,} of the next {len(ids) - 1 - bad[0]:,}. "
                "Give particles after a 3D refinement, or a subset without these."
            )
        angles, origins = angles_and_shifts(matrices)
        return np.concatenate([angles, origins * self._sampling_rate], axis=1).T.tolist()


def _plain(name: str, form: str, label: str) -> Column:
    """An attribute as it is; where there is no value, RELION's word for it."""
    if form == TEXT:
        return Column(name, form, (label,), words)
    return Column(name, form, (label,), lambda values: [value or 0 for value in values])


def _defocus(ids: Sequence[int], values: Sequence[Any]) -> Sequence[Any]:
    if None in values:
        first = ids[values.index(None)]
        raise UserError(f"The particle with id {first} has no CTF. Estimate it, or give a subset without such particles.")
    return values


def _relions(rows: ParticleRows) -> List[Column]:
    """All other attributes with a name of RELION, of the particle itself, its CTF and its coordinates."""
    columns = []
    for start in ("_rln", "_ctfModel._rln", "_coordinate._rln"):
        for label in rows.labels:
            name, form = label.rpartition(".")[2][1:], FORMATS.get(rows.types.get(label, ""))
            if label.startswith(start) and form and name not in TOLD_ELSEWHERE and rows.has(label):
                columns.append(_plain(name, form, label))
    return columns
