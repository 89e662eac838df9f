"""The maps that particles are refined against: read, and looked at before long work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.slices import SliceTable
from cryopares_core.volumes.maps import PIXEL_REMEDY, read_map

LOOKED_AT = 20  # views
# Symmetry shows where detail is a good part of the particle's size; coarser, all maps are round, and finer, noise begins.
COARSEST_SHARE, FINEST_SHARE = 0.8, 0.25  # of the particle's radius
SYMMETRIC = 0.5


def read_references(
    first: str, second: str | None, pixel_size_angs: float | None, remedy: str = PIXEL_REMEDY
) -> dict[int, Reference]:
    """The map of each half set; the same one where there is no second.

    Parameters
    ----------
    pixel_size_angs : replaces that of the headers
    remedy : what to do, in messages, where a header has none

    Raises
    ------
    UserError : with all that is wrong with the files
    """
    found, problems = dict[str, Reference](), list[str]()
    for option, path in (("--reference_fname", first), ("--reference_half2_fname", second)):
        if path is None:
            continue
        if not Path(path).is_file():
            problems.append(f"{option}={path}: there is no such file.")
            continue
        try:
            found[option] = Reference(*read_map(path, pixel_size_angs, option=option, remedy=remedy))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    maps = list(found.values())
    return {1: maps[0], 2: maps[-1]}


def check_symmetry(slices: SliceTable, symmetry: str) -> None:
    """Raise UserError where a map looks different after a turn of the point group."""
    group = point_group(symmetry)
    if group.order == 1:
        return
    agreement = [symmetry_agreement(slices, turn) for turn in group.matrices[1:]]
    if min(agreement) < SYMMETRIC:
        raise UserError(
            f"--symmetry={symmetry}: the map does not have it on RELION's axes: after a turn, it correlates with itself only by "
            f"{min(agreement):.2f}. Align its axes (relion_align_symmetry), or give another symmetry: C1 goes with every map."
        )


@torch.no_grad()
def symmetry_agreement(slices: SliceTable, turn: torch.Tensor) -> float:
    """The mean correlation, over shells, of a map's views with those after a turn `(3, 3)`: 1 for a symmetric map."""
    radius = slices.radius_angs
    finest = max(FINEST_SHARE * radius, slices.finest_angs)
    pictures = Frequencies(64, finest / 2.1, finest, slices.device)
    poses = random_rotations(LOOKED_AT, torch.Generator().manual_seed(0)).float().to(slices.device)
    views, turned = (slices(pose, pictures.xy)[0] for pose in (poses, poses @ turn.to(poses).mT))
    size = pictures.n_shells
    sums = torch.zeros(3, size, device=slices.device)
    for place, product in enumerate((views * turned, views.square(), turned.square())):
        sums[place].index_add_(0, pictures.shell, product.sum(dim=(0, 1)))
    shells = np.arange(size) / pictures.extent_angs >= 1 / (COARSEST_SHARE * radius)
    correlation = sums[0] / (sums[1] * sums[2]).clamp(min=1e-30).sqrt()
    return float(correlation[torch.from_numpy(shells)].mean())
