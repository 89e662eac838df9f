"""What all particles of a set tell together: poses, half sets, duplicates, CTFs. One pass over the rows of its file.

A form asks several times: what was found is kept until the file changes.
"""

import json
import os
import warnings
from contextlib import suppress
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from cryopares_core.config.ordinary import close_across_halves, ctf_doubts, half_set_doubts, shared_pictures, shared_places
from cryopares_plugin.convert.columns import DEFOCUS, MATRIX, MICROGRAPHS
from cryopares_plugin.convert.halves import half_set_label
from cryopares_plugin.convert.optics import MICROSCOPE, microscope_of
from cryopares_plugin.convert.poses import angles_and_shifts, are_poses
from cryopares_plugin.convert.rows import Block, ParticleRows
from cryopares_plugin.convert.stacks import file_of

BLOCK = 20_000
BRACKETS = {ord("["): None, ord("]"): None}
NO_POSE = np.full((4, 4), np.nan)
PHASE_SHIFT, COORDINATES = "_ctfModel._phaseShift", ("_coordinate._x", "_coordinate._y")
CTF_NAMES = ("defocus_u_angs", "defocus_v_angs", "defocus_angle_deg", "phase_shift_deg")
MICROSCOPE_NAMES = ("voltage_kv", "cs_mm", "amplitude_contrast")


class Whole(NamedTuple):
    """What was found, and what other looks need.

    Attributes
    ----------
    bad_poses, without_ctf : how many particles have no pose or no CTF, and a sentence's part that names the first
    half_sizes : particles of half set 1, of 2, and of none
    spread : the largest part of the view directions along one axis: 1/3 for views from everywhere, 1 for one view
    stacks : each file, and the largest number of a picture that is asked of it
    doubts : sentences that hold whatever the half sets are for
    half_doubts : and those on half sets
    """

    n_particles: int
    bad_poses: Tuple[int, str]
    without_ctf: Tuple[int, str]
    half_sizes: Tuple[int, int, int]
    spread: float
    stacks: Dict[str, int]
    doubts: List[str]
    half_doubts: List[str]


def look_at_whole(particles: Any, rows: ParticleRows) -> Whole:
    """Of all enabled particles.

    Raises
    ------
    UserError : the set's file cannot be read.
    """
    status = os.stat(rows.path)
    microscope, sampling_rate = microscope_of(particles), particles.getSamplingRate() or 1.0
    key = (os.path.abspath(rows.path), particles.getPrefix(), status.st_size, status.st_mtime_ns, sampling_rate, *microscope)
    if key not in _kept:
        _kept.clear()
        _kept[key] = _Columns(rows, sampling_rate, microscope).found()
    return _kept[key]


_kept: Dict[Tuple[Any, ...], Whole] = {}  # of one set, that on the form


class _Columns:
    """The rows as arrays; of each matrix only what is asked of it is kept."""

    def __init__(self, rows: ParticleRows, sampling_rate: float, microscope: List[Any]):
        self.rows, self.sampling_rate, self.microscope = rows, sampling_rate, microscope
        self.half_label = half_set_label(self.rows)
        self.mic_label = next((label for label in MICROGRAPHS if self.rows.has(label)), None)
        self.codes: Dict[str, int] = {}
        self.mics: Dict[Any, int] = {}
        parts = [self._of_block(block) for block in self.rows.blocks(self._labels(), BLOCK)]
        names = parts[0] if parts else {}
        self.arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _labels(self) -> List[str]:
        wanted = ["id", "_index", "_filename", MATRIX, *DEFOCUS.values(), PHASE_SHIFT, *MICROSCOPE, *COORDINATES]
        return [*wanted, *(label for label in (self.half_label, self.mic_label) if label)]

    def _of_block(self, block: Block) -> Dict[str, np.ndarray]:
        matrices = matrices_of(block[MATRIX])
        good = are_poses(matrices)
        origins = np.full((len(matrices), 2), np.nan)
        origins[good] = angles_and_shifts(matrices[good])[1]
        half = block[self.half_label] if self.half_label else [0] * len(matrices)
        mic = block[self.mic_label] if self.mic_label else [0] * len(matrices)
        found = {
            "id": np.array(block["id"]),
            "index": np.array([index or 1 for index in block["_index"]], dtype=np.int64),
            "stack": _coded(block["_filename"], self.codes),
            "half": np.array([value if value in (1, 2) else 0 for value in half], dtype=np.int8),
            "mic": _coded(mic, self.mics),
            "good": good,
            "direction": matrices[:, :3, 2],
            "centre": np.stack([_numbers(block[label]) for label in COORDINATES], axis=1) - origins,
        }
        found.update(zip(CTF_NAMES, (_numbers(block[label]) for label in (*DEFOCUS.values(), PHASE_SHIFT))))
        found.update(zip(MICROSCOPE_NAMES, (_numbers(block[label]) for label in MICROSCOPE)))
        return found

    def found(self) -> Whole:
        """All sentences and figures."""
        if not self.arrays:
            return Whole(0, (0, ""), (0, ""), (0, 0, 0), 0.0, {}, [], [])
        half, good = self.arrays["half"], self.arrays["good"]
        directions = self.arrays["direction"][good]
        spread = np.linalg.eigvalsh(directions.T @ directions / max(1, len(directions)))[-1]
        sizes = (int((half == 1).sum()), int((half == 2).sum()), int((half == 0).sum()))
        bad = self._first(~good)
        return Whole(
            len(half), bad, self._without_ctf(), sizes, float(spread), self._stacks(), self._doubts(), self._half_doubts(sizes)
        )

    def _first(self, chosen: np.ndarray) -> Tuple[int, str]:
        count = int(chosen.sum())
        return count, f"id {self.arrays['id'][int(chosen.argmax())]}" if count else ""

    def _name(self, row: int) -> str:
        return f"id {self.arrays['id'][int(row)]}"

    def _without_ctf(self) -> Tuple[int, str]:
        """Of particles beside others that have one; a set that has none at all says so itself."""
        labels = [name for name, label in zip(CTF_NAMES, DEFOCUS.values()) if label in self.rows]
        if not labels:
            return 0, ""
        return self._first(~np.all([np.isfinite(self.arrays[name]) for name in labels], axis=0))

    def _stacks(self) -> Dict[str, int]:
        largest = np.zeros(len(self.codes), dtype=np.int64)
        np.maximum.at(largest, self.arrays["stack"], self.arrays["index"])
        return {file_of(name): int(largest[code]) for name, code in self.codes.items()}

    def _doubts(self) -> List[str]:
        values = {name: self.arrays[name] for name in CTF_NAMES if np.isfinite(self.arrays[name]).any()}
        for name, of_set in zip(MICROSCOPE_NAMES, self.microscope):
            own = self.arrays[name]
            values[name] = np.where(np.isfinite(own), own, np.nan if of_set is None else of_set)
        return self._repeated() + ctf_doubts(values, self._name)

    def _pictures(self) -> np.ndarray:
        return self.arrays["stack"] << 32 | self.arrays["index"]

    def _repeated(self) -> List[str]:
        pictures = self._pictures()
        count = len(pictures) - len(np.unique(pictures))
        if not count or self._in_both_halves().any():
            return []
        return [f"{count:,} pictures stand in more than one particle of the set. Make a subset without the repeated ones."]

    def _in_both_halves(self) -> np.ndarray:
        """Which particles of half set 1 have their picture in half set 2 too, `(n,)`."""
        pictures, half = self._pictures(), self.arrays["half"]
        return (half == 1) & np.isin(pictures, pictures[half == 2])

    def _half_doubts(self, sizes: Tuple[int, int, int]) -> List[str]:
        if not sizes[0] or not sizes[1]:
            return []
        count, first = self._first(self._in_both_halves())
        found = half_set_doubts(sizes[:2]) + shared_pictures(count, first)
        if not count and self.mic_label:
            close = close_across_halves(self.arrays["mic"], self.arrays["centre"] * self.sampling_rate, self.arrays["half"])
            found += shared_places(len(close), sizes[0], self._name(close[0]) if len(close) else "")
        if sizes[2]:
            found.append(
                f"{sizes[2]:,} of {sum(sizes):,} particles carry no half set (rlnRandomSubset): it will be drawn for them."
            )
        return found


def matrices_of(texts: Sequence[Optional[str]]) -> np.ndarray:
    """Scipion's matrices `(n, 4, 4)`; nan where there is none or its text is damaged. Twice as fast as reading JSON."""
    with warnings.catch_warnings(), suppress(ValueError, TypeError, DeprecationWarning):
        warnings.simplefilter("error", DeprecationWarning)  # how numpy tells of text that is no number
        values = np.fromstring(",".join(texts).translate(BRACKETS), sep=",")  # type: ignore[arg-type]
        if len(values) == 16 * len(texts):
            return values.reshape(-1, 4, 4)
    return np.array([_matrix_of(text) for text in texts]).reshape(-1, 4, 4)


def _matrix_of(text: Optional[str]) -> np.ndarray:
    try:
        return np.array(json.loads(text or "[]"), dtype=np.float64).reshape(4, 4)
    except ValueError:
        return NO_POSE


def _coded(values: Sequence[Any], codes: Dict[Any, int]) -> np.ndarray:
    """A whole number for each value, the same for equal ones; new ones are added to `codes`."""
    return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """`(n,)` float64, nan where there is no value."""
    return np.array(values, dtype=np.float64)
