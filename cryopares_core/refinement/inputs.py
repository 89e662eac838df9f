"""What `cryopares_refine` starts from; all that is wrong with it is told at once, before anything is written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cryopares_core.config.refine_arguments import RefineArguments
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.columns import CTF_REMEDY
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.iteration_run import is_free_for_iterations
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.references import read_references
from cryopares_core.shards import is_free
from cryopares_core.volumes.half_map_files import foreign_maps

logger = logging.getLogger(__name__)
PARTS = ".parts"  # of the folder with what a run has done so far
ITERATIONS, MAPS = ".iterations", ".maps"  # of the folders with all iterations and with the final half maps
T = TypeVar("T")


@dataclass(frozen=True)
class RefineInput:
    """Particles with their starts, `(n, 1, 3, 3)` and `(n, 2)` in Å, and the map of each half set."""

    table: ParticleTable
    poses: Tensor
    shifts_angs: Tensor
    references: dict[int, Reference]


def read_input(arguments: RefineArguments) -> RefineInput:
    """Read particles and maps.

    Raises
    ------
    UserError : with everything that is wrong with them, the symmetry and the place of the result
    """
    problems = _out_problems(arguments)
    _tried(lambda: point_group(arguments.symmetry), problems)
    references = _tried(lambda: _references(arguments), problems)
    table = _tried(lambda: _particles(arguments), problems)
    if problems or references is None or table is None:
        raise UserError([problem.replace(CTF_REMEDY, "Estimate the CTF, or give --use_ctf False.") for problem in problems])
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))[:, None].float()
    return RefineInput(table, poses, torch.from_numpy(table.shifts_angs).float(), references)


def _tried(read: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return read()
    except UserError as error:
        problems += error.problems
    return None


def _out_problems(arguments: RefineArguments) -> list[str]:
    """Whether the result can be written."""
    out_star = Path(arguments.out_star).absolute()
    option = f"--out_star={arguments.out_star}"
    if not out_star.parent.is_dir() or not os.access(out_star.parent, os.W_OK | os.X_OK):
        return [f"{option}: {out_star.parent} is not a folder that you may write to. Make it, or give another."]
    if out_star.exists() and os.path.realpath(out_star) == os.path.realpath(arguments.particles_star_fname):
        return [f"{option} is the file with the particles: give another name."]
    if out_star.is_dir():
        return [f"{option} is a folder: give the name of a file."]
    if not is_free(out_star.with_suffix(PARTS)):
        return [f"{option}: {out_star.with_suffix(PARTS)}, where parts of the result go, holds something else. Give another name."]
    iterations = out_star.with_suffix(ITERATIONS)
    if arguments.iterations and not is_free_for_iterations(iterations):
        return [f"{option}: {iterations}, where the iterations go, holds something else. Choose another name."]
    if arguments.iterations and (foreign := foreign_maps(out_star.with_suffix(MAPS))):
        return [f"{option}: {', '.join(foreign)} in {out_star.with_suffix(MAPS)} would be overwritten. Choose another name."]
    if out_star.exists() and not arguments.overwrite:
        return [f"{option} exists already: give --overwrite, or another name."]
    return []


def _references(arguments: RefineArguments) -> dict[int, Reference]:
    return read_references(arguments.reference_fname, arguments.reference_half2_fname, arguments.sampling_rate)


def _particles(arguments: RefineArguments) -> ParticleTable:
    table, remarks = read_particles(
        arguments.particles_star_fname,
        arguments.particles_dir,
        needs_ctf=arguments.use_ctf,
        split_halfs=arguments.reference_half2_fname is not None or arguments.iterations > 0,
    )
    for remark in remarks:
        logger.warning("%s", remark)
    return table
