"""RELION STAR files (3.0, 3.1 and later) to a `ParticleTable`, with all that is wrong told at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cryopares_core.errors import UserError
from cryopares_core.particles import columns
from cryopares_core.particles.aberrations import uncorrected
from cryopares_core.particles.images import check_declared_size, check_stacks, find_pictures
from cryopares_core.particles.mrc import LARGEST_SIDE_PX
from cryopares_core.particles.starblocks import StarBlocks, read_blocks
from cryopares_core.particles.suspicions import suspicions
from cryopares_core.particles.table import CtfParameters, ParticleTable
from cryopares_core.particles.text import to_floats, to_text


def read_particles(
    star_fnames: Sequence[str | Path] | str | Path,
    particles_dir: Sequence[str | Path] | str | Path | None = None,
    needs_ctf: bool = True,
    split_halfs: bool = True,
    check_files: bool = True,
) -> tuple[ParticleTable, list[str]]:
    """Read one STAR file or several and check every particle.

    Parameters
    ----------
    particles_dir : folder that relative picture names start from; one for all files or one for each. Then the STAR file's folder
        and the folders above it are tried.
    needs_ctf : refuse particles without CTF parameters
    split_halfs : refuse data with an empty half set
    check_files : look for the stacks and read their headers; without it the pictures' size is that of the optics table

    Returns
    -------
    the table, and warnings about what is suspicious or was filled in

    Raises
    ------
    UserError : with every problem of every file
    """
    paths = [Path(name) for name in _as_list(star_fnames)]
    folders = _folder_of_each(paths, [Path(name) for name in _as_list(particles_dir or [])])
    tables, warnings, problems = [], [], []
    for index, path in enumerate(paths):
        try:
            table, remarks = _read_one(path, folders[index], needs_ctf, split_halfs, check_files)
            tables.append(table)
            warnings += remarks
        except UserError as error:
            problems += error.problems
    if not problems and split_halfs:
        problems += _empty_half(paths, np.concatenate([table.half_set for table in tables]))
    if problems:
        raise UserError(problems)
    whole = _concatenate(tables)
    return whole, warnings + suspicions(whole)


def _folder_of_each(paths: list[Path], folders: list[Path]) -> list[Path | None]:
    """The folder that each STAR file's picture names start from."""
    if not paths:
        raise UserError("No STAR file is given. Set --particles_star_fname.")
    if len(folders) not in (0, 1, len(paths)):
        raise UserError(f"{len(folders)} folders are given for {len(paths)} STAR files. Give one for all, or one for each.")
    return list(folders) if len(folders) == len(paths) else [folders[0] if folders else None] * len(paths)


def _as_list(value: Sequence[str | Path] | str | Path) -> list[str | Path]:
    return [value] if isinstance(value, str | Path) else list(value)


def _read_one(
    path: Path, particles_dir: Path | None, needs_ctf: bool, split_halfs: bool, check_files: bool
) -> tuple[ParticleTable, list[str]]:
    warnings = list[str]()

    def half_sets(blocks: StarBlocks) -> np.ndarray:
        return columns.half_sets(blocks, split_halfs, warnings)

    table = make_table(read_blocks(path), particles_dir, needs_ctf, columns.angles, half_sets, warnings, check_files)
    return table, warnings


def make_table(
    blocks: StarBlocks,
    particles_dir: Path | None,
    needs_ctf: bool,
    angles: Callable[[StarBlocks], np.ndarray],
    half_sets: Callable[[StarBlocks], np.ndarray],
    warnings: list[str],
    check_files: bool = True,
) -> ParticleTable:
    """The table of a file's blocks, every particle checked.

    Parameters
    ----------
    particles_dir, needs_ctf, check_files : as in `read_particles`
    angles : gives RELION's angles `(n, 3)` in degrees, or what stands for them
    half_sets : gives the half set of each particle, `(n,)` 1 or 2
    warnings : what is suspicious or was filled in is added to it

    Raises
    ------
    UserError : with every problem of the file
    """
    group = columns.optics_row(blocks)
    pixel_size = columns.pixel_sizes(blocks, group)
    pictures = find_pictures(blocks, particles_dir, check_files)
    declared = columns.of_optics(blocks, "rlnImageSize", group) if group is not None else None
    if check_files:
        sides = check_stacks(blocks, pictures, pixel_size, warnings)
        check_declared_size(blocks, declared, sides)
    else:
        sides = np.zeros(len(blocks.particles)) if declared is None else np.nan_to_num(declared).clip(0, LARGEST_SIDE_PX)
    _check_dimensions(blocks, group)
    warnings += uncorrected(blocks)
    table = ParticleTable(
        stack_paths=pictures.stack_paths,
        stack_id=pictures.stack_id,
        slice_id=pictures.slice_id,
        eulers_deg=angles(blocks),
        shifts_angs=columns.shifts(blocks, pixel_size, warnings),
        ctf=columns.ctf_parameters(blocks, group, needs_ctf),
        pixel_size_angs=pixel_size,
        image_size_px=sides.astype(np.int32),
        half_set=half_sets(blocks),
        particles=blocks.particles,
        optics=blocks.optics if group is not None else None,
    )
    if blocks.problems:
        raise UserError(blocks.problems)
    return table


def _check_dimensions(blocks: StarBlocks, group: np.ndarray | None) -> None:
    dimensions = columns.of_optics(blocks, "rlnImageDimensionality", group) if group is not None else None
    if dimensions is not None and (dimensions == 3).any():
        blocks.problems.append(f"{blocks.path}: its pictures are volumes (rlnImageDimensionality 3). Give single particles.")


def _empty_half(paths: list[Path], half_set: np.ndarray) -> list[str]:
    present = set(np.unique(half_set).tolist())
    return [
        f"{', '.join(map(str, paths))}: no particles in half set {half} (rlnRandomSubset). Give both halves, or use "
        "--split_halfs False."
        for half in (1, 2)
        if half not in present
    ]


def _concatenate(tables: list[ParticleTable]) -> ParticleTable:
    """One table of several; optics groups of different files are kept apart by new numbers."""
    if len(tables) == 1:
        return tables[0]
    stack_offsets = np.cumsum([0] + [len(table.stack_paths) for table in tables[:-1]])
    names = ("slice_id", "eulers_deg", "shifts_angs", "pixel_size_angs", "image_size_px", "half_set")
    arrays = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    ctf_names = CtfParameters.__dataclass_fields__
    ctf = CtfParameters(*(np.concatenate([getattr(table.ctf, name) for table in tables]) for name in ctf_names))
    particles, optics = _join_rows(tables)
    return ParticleTable(
        stack_paths=[path for table in tables for path in table.stack_paths],
        stack_id=np.concatenate([table.stack_id + offset for table, offset in zip(tables, stack_offsets, strict=True)]),
        ctf=ctf,
        particles=particles,
        optics=optics,
        **arrays,
    )


def _join_rows(tables: list[ParticleTable]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The rows of all files. Files with and without optics tables cannot stand in one file."""
    if any(table.optics is None for table in tables):
        if any(table.optics is not None for table in tables):
            raise UserError(
                "Some STAR files are of RELION 3.0 and some are later: convert them (relion_convert_star), or train on one kind."
            )
        return _stack_rows([table.particles for table in tables]), None
    particles, optics, used = [], [], 0
    for table in tables:
        # The same group may be written as 1 and as 1.0.
        old = to_floats(table.optics["rlnOpticsGroup"])  # type: ignore[index]
        new = {group: used + place + 1 for place, group in enumerate(old)}
        used += len(old)
        renamed = pd.Series(to_floats(table.particles["rlnOpticsGroup"])).map(new)
        particles.append(table.particles.assign(rlnOpticsGroup=to_text(renamed)))
        optics.append(table.optics.assign(rlnOpticsGroup=to_text(list(new.values()))))  # type: ignore[union-attr]
    return _stack_rows(particles), _stack_rows(optics)


def _stack_rows(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several files in one; what a file has no column for becomes RELION's own default, 0 or None."""
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    whole = {}
    for name in names:
        parts = [frame[name] if name in frame else _default(name, frames, len(frame)) for frame in frames]
        whole[name] = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(whole)


def _default(name: str, frames: list[pd.DataFrame], count: int) -> pd.Series:
    """Cells for a file that lacks a column of the others."""
    numeric = all(np.isfinite(to_floats(frame[name])).all() for frame in frames if name in frame)
    return pd.Series(to_text(["0" if numeric else "None"] * count))
