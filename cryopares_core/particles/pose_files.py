"""Poses out of STAR files, whether or not their pictures are there; and which rows of two files mean the same picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryopares_core.errors import UserError
from cryopares_core.particles import columns
from cryopares_core.particles.starblocks import SHOWN, StarBlocks, read_blocks

SUBSET = "rlnRandomSubset"


@dataclass(frozen=True)
class PoseFile:
    """What one file says.

    Attributes
    ----------
    names : `(n,)` of the pictures, with their numbers as plain as can be: `12@stack.mrcs`
    eulers_deg, shifts_angs : `(n, 3)` and `(n, 2)`, as in `ParticleTable`
    half_set : `(n,)` 1 or 2, 0 where it is not known; None without such a column
    """

    path: Path
    names: np.ndarray
    eulers_deg: np.ndarray
    shifts_angs: np.ndarray
    half_set: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Matched:
    """Rows of two files that name the same pictures: `first[i]` of one is `second[i]` of the other.

    `only_first` and `only_second` are rows whose pictures the other file does not have. `by_stack_name` tells that folders were
    left out of account.
    """

    first: np.ndarray
    second: np.ndarray
    only_first: np.ndarray
    only_second: np.ndarray
    by_stack_name: bool


def read_poses(path: str | Path) -> PoseFile:
    """Names and poses of the particles of a STAR file.

    Raises
    ------
    UserError : it cannot be read, holds no particles, or has angles or shifts that are no numbers
    """
    blocks = read_blocks(Path(path))
    eulers = columns.angles(blocks)
    shifts = columns.shifts(blocks, _pixel_sizes(blocks), [])
    half_set = columns.numbers(blocks, SUBSET)
    if blocks.problems:
        raise UserError(blocks.problems)
    known = None if half_set is None else np.where(np.isin(half_set, (1, 2)), half_set, 0).astype(np.int8)
    return PoseFile(blocks.path, _plain_names(blocks), eulers, shifts, known)


def _pixel_sizes(blocks: StarBlocks) -> np.ndarray:
    """Those that shifts in pixels need; shifts in Å need none."""
    if "rlnOriginXAngst" in blocks.particles or "rlnOriginX" not in blocks.particles:
        return np.ones(len(blocks.particles))
    return columns.pixel_sizes(blocks, columns.optics_row(blocks))


def _plain_names(blocks: StarBlocks) -> np.ndarray:
    """Picture 000012@a.mrcs of one file is 12@a.mrcs of another, and a name alone is picture 1."""
    names = []
    for name in blocks.particles["rlnImageName"]:
        number, _, stack = name.partition("@")
        names.append(f"{int(number)}@{os.path.normpath(stack)}" if number.isdecimal() else f"1@{os.path.normpath(name)}")
    return np.array(names, dtype=object)


def match(first: PoseFile, second: PoseFile) -> Matched:
    """Find the rows of two files that mean the same picture, in any order.

    Folders often differ, as between projects: where no names are the same, those without folders are compared.

    Raises
    ------
    UserError : a file names a picture twice, or no picture is in both
    """
    for without_folders in (False, True):
        ours, theirs = (pd.Index(_without_folders(file.names) if without_folders else file.names) for file in (first, second))
        if not ours.isin(theirs).any():
            continue
        _refuse_repeated(((first, ours), (second, theirs)), without_folders)
        place = theirs.get_indexer(ours)
        found = np.flatnonzero(place >= 0)
        others = np.setdiff1d(np.arange(len(second)), place[found])
        return Matched(found, place[found], np.flatnonzero(place < 0), others, without_folders)
    raise UserError(
        f"{first.path} and {second.path} have no picture in common (rlnImageName): their first ones are {first.names[0]} and "
        f"{second.names[0]}. Give two files of the same particles."
    )


def _without_folders(names: np.ndarray) -> np.ndarray:
    parts = (name.partition("@") for name in names)
    return np.array([f"{number}@{os.path.basename(stack)}" for number, _, stack in parts], dtype=object)


def _refuse_repeated(files: Sequence[tuple[PoseFile, pd.Index]], without_folders: bool) -> None:
    problems = []
    for file, names in files:
        twice = names.duplicated()
        if twice.any():
            shown = ", ".join(dict.fromkeys(names[twice][:SHOWN]))
            why = "Names are compared without their folders, since with them no two are the same" if without_folders else ""
            problems.append(
                f"{file.path}: {int(twice.sum()):,} rows name a picture that an earlier row has ({shown}), and nobody can know "
                f"which pose to compare. {why or 'Give each picture once'}."
            )
    if problems:
        raise UserError(problems)
