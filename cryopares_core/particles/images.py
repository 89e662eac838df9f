"""Where each particle's picture lies: names like `000001@a.mrcs`, folders that they start from, checks of stacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryopares_core.errors import UserError
from cryopares_core.particles.mrc import StackHeader, read_header
from cryopares_core.particles.starblocks import SHOWN, StarBlocks
from cryopares_core.particles.text import TextArray, pack, to_floats

PIXEL_SIZE_TOLERANCE = 0.01
FILES_AT_ONCE = 50  # that a thread reads before it asks for more


@dataclass(frozen=True)
class Pictures:
    """The stacks of one STAR file, and for each particle `(n,)` its stack and its place there, counted from 0."""

    stack_paths: list[str]
    stack_id: np.ndarray
    slice_id: np.ndarray


def find_pictures(blocks: StarBlocks, particles_dir: Path | None, check_files: bool) -> Pictures:
    """Take the picture names apart and find each stack; what is wrong is noted in `blocks`."""
    number, names_of_rows = _apart(blocks)
    remedy = "Pictures of a stack are counted from 1."
    blocks.complain(np.flatnonzero(number < 1), "there is no picture 0", remedy, "rlnImageName")
    stack_id, encoded = pd.factorize(names_of_rows)
    names = [name.decode() for name in encoded]
    unnamed = np.isin(stack_id, [place for place, name in enumerate(names) if not name]) & ~blocks.cut_off
    blocks.complain(np.flatnonzero(unnamed), "no picture is named", "Take the row out.", "rlnImageName")
    roots = _roots(blocks.path, particles_dir)
    paths = [_locate(name, roots) for name in names]
    if check_files:
        _tell_missing(blocks, stack_id, [path is None and name != "" for name, path in zip(names, paths, strict=True)], roots)
    found = [path or os.path.join(roots[0], name) for name, path in zip(names, paths, strict=True)]
    return Pictures(found, stack_id.astype(np.int32), np.maximum(number - 1, 0))


def _apart(blocks: StarBlocks) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's picture the number in its stack, from 1 (a name alone is that of picture 1), and the stack's name as bytes."""
    numbers, names = [], []
    for cell in blocks.particles["rlnImageName"].array.encoded.tolist():
        number, _, name = cell.partition(b"@")
        if not number.isdigit():
            number, name = b"1", cell
        numbers.append(number)
        names.append(name)
    values = to_floats(pd.Series(TextArray(pack(numbers))))
    return values.clip(0, 2**53).astype(np.int64), np.array(names, dtype=object)


def _tell_missing(blocks: StarBlocks, stack_id: np.ndarray, missing: Sequence[bool], roots: Sequence[str]) -> None:
    """Stacks that were not found, each with the first row that names it."""
    rows = _first_rows(stack_id)[np.array(missing, dtype=bool)]
    if not len(rows):
        return
    tried = ", ".join(roots[:3]) + (" and above" if len(roots) > 3 else "")
    needed = np.bincount(stack_id)[stack_id[rows[:SHOWN]]]
    what = [f"no such stack (looked in {tried}); {count:,} rows need it" for count in needed]
    blocks.complain(rows[:SHOWN], what, "Set --particles_dir.", "rlnImageName")
    if len(rows) > SHOWN:
        particles = int(np.isin(stack_id, stack_id[rows[SHOWN:]]).sum())
        blocks.problems.append(f"{blocks.path}: {len(rows) - SHOWN:,} more stacks were not found; {particles:,} rows need them.")


def _first_rows(stack_id: np.ndarray) -> np.ndarray:
    """For each stack the first row that names it."""
    return np.unique(stack_id, return_index=True)[1]


def _roots(star: Path, particles_dir: Path | None) -> list[str]:
    """Where relative names may start: the given folder, the STAR file's folder, then the folders above it."""
    folder = star.resolve().parent
    given = [particles_dir.resolve()] if particles_dir else []
    return list(dict.fromkeys(map(str, [*given, folder, *folder.parents])))


def _locate(name: str, roots: Sequence[str]) -> str | None:
    """The first existing file of that name, or None."""
    return next((path for path in (os.path.join(root, name) for root in roots) if os.path.isfile(path)), None)


def check_stacks(blocks: StarBlocks, pictures: Pictures, pixel_size_angs: np.ndarray, warnings: list[str]) -> np.ndarray:
    """The side of each particle's picture `(n,)`, from the headers of all stacks that exist; what is wrong is noted."""
    existing = [index for index, path in enumerate(pictures.stack_paths) if os.path.isfile(path)]
    headers = _headers([pictures.stack_paths[index] for index in existing])
    counts, sides = (
        np.full(len(pictures.stack_paths), np.iinfo(np.int64).max),
        np.zeros(len(pictures.stack_paths), np.int32),
    )
    in_header = np.zeros(len(pictures.stack_paths))
    _tell_unreadable(blocks, _first_rows(pictures.stack_id)[existing], headers)
    for index, header in zip(existing, headers, strict=True):
        if isinstance(header, StackHeader):
            counts[index], sides[index], in_header[index] = header.n, header.nx, header.pixel_size_angs
    beyond = np.flatnonzero(pictures.slice_id >= counts[pictures.stack_id])
    what = [f"the stack has only {count} pictures" for count in counts[pictures.stack_id[beyond[:SHOWN]]]]
    blocks.complain(beyond, what, "Mend the name, or copy the stack again.", "rlnImageName")
    _compare_pixel_sizes(blocks, pictures, in_header, pixel_size_angs, warnings)
    return sides[pictures.stack_id]


def _tell_unreadable(blocks: StarBlocks, rows: np.ndarray, headers: Sequence[StackHeader | UserError]) -> None:
    """Stacks that are damaged, or whose pictures are not square, each with the first row that names it."""
    bad = [place for place, header in enumerate(headers) if isinstance(header, UserError)]
    blocks.problems += [f"{blocks.at(int(rows[place]))}: {headers[place]}" for place in bad[:SHOWN]]
    if len(bad) > SHOWN:
        blocks.problems.append(f"{blocks.path}: {len(bad) - SHOWN:,} more stacks cannot be read.")
    odd = [place for place, header in enumerate(headers) if isinstance(header, StackHeader) and header.nx != header.ny]
    shapes = [f"the stack's pictures are {headers[place].nx} x {headers[place].ny} px" for place in odd[:SHOWN]]  # type: ignore[union-attr]
    blocks.complain(rows[odd], shapes, "Extract square ones.", "rlnImageName")


def _headers(paths: Sequence[str]) -> list[StackHeader | UserError]:
    """The headers of stacks; several are asked for at a time, since a network disk answers slowly."""
    parts = [paths[start : start + FILES_AT_ONCE] for start in range(0, len(paths), FILES_AT_ONCE)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [header for part in pool.map(lambda part: list(map(_header_or_error, part)), parts) for header in part]


def _header_or_error(path: str) -> StackHeader | UserError:
    try:
        return read_header(path)
    except UserError as error:
        return error


def _compare_pixel_sizes(
    blocks: StarBlocks, pictures: Pictures, in_header: np.ndarray, pixel_size_angs: np.ndarray, warnings: list[str]
) -> None:
    """Many programs leave 0 or 1 in the header: these say nothing."""
    header = in_header[pictures.stack_id]
    tells = (header > 0) & (np.abs(header - 1) > 1e-6)
    differs = np.flatnonzero(tells & (np.abs(header / pixel_size_angs - 1) > PIXEL_SIZE_TOLERANCE))
    if len(differs):
        row = int(differs[0])
        warnings.append(
            f"{blocks.at(row)}: the pixel size is {pixel_size_angs[row]:g} Å here and {header[row]:g} Å in the header of "
            f"{pictures.stack_paths[pictures.stack_id[row]]} ({len(differs):,} particles). The STAR file's value is used."
        )


def check_declared_size(blocks: StarBlocks, declared: np.ndarray | None, sides: np.ndarray) -> None:
    """The optics table's rlnImageSize against the stacks."""
    if declared is None:
        return
    differs = np.flatnonzero((declared != sides) & (sides > 0) & np.isfinite(declared))
    if len(differs):
        row = int(differs[0])
        blocks.problems.append(
            f"{blocks.path}: rlnImageSize is {declared[row]:g} px in data_optics, but the pictures of {len(differs):,} particles "
            f"are {sides[row]} px (first: {blocks.particles['rlnImageName'].iloc[row]}). "
            "Mend data_optics, or give the right stacks."
        )
