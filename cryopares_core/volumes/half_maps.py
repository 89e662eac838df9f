"""Half maps of particles with poses, at the pictures' own pixel size and box; their correlation, and the map of both together."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.machine import exact_products
from cryopares_core.memory import free_memory_bytes
from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import size_text
from cryopares_core.volumes.auto_mask import auto_mask
from cryopares_core.volumes.fourier_sums import FourierSums, sums_bytes
from cryopares_core.volumes.fsc import FIRST_SHELL, FscCurves, first_below, fsc_curves
from cryopares_core.volumes.insertion import Inserter, Progress, sum_halves
from cryopares_core.volumes.masks import soft_sphere, without_corners
from cryopares_core.volumes.symmetrise import symmetrise
from cryopares_core.volumes.threads import one_thread_an_operation

logger = logging.getLogger(__name__)
LEAST_SHARE = 0.01  # of the mean weight of a shell: added to all weights of half maps, so that hardly met places are not noise
LEAST_NOISE = 1e-3  # over the signal, in the map of both halves
NOTHING_LEFT = 0.05  # correlation below which a shell is taken for noise
MEMORY_SHARE = 0.8  # of what is free
PIXEL_TOLERANCE = 1e-3
# Memory for each voxel of a map while it is made and while the correlations are computed, and for each picture's pixel and thread.
BYTES_TO_MAP, BYTES_TO_CORRELATE, BYTES_OF_THREAD = 28, 56, 2500
SLACK = 1.2  # freed memory cannot all be used again
SHOWN = 5


@dataclass(frozen=True)
class HalfMaps:
    """Maps `(n, n, n)` `[z, y, x]` float32 on the CPU.

    Attributes
    ----------
    half1, half2 : as they come from the two half sets, not filtered
    volume : of all particles, each frequency damped by its signal-to-noise ratio
    fsc : correlations of the two halves
    n_particles : in each half
    symmetry : the point group's name
    mask : `(n, n, n)` between 0 and 1, with which the halves were correlated
    mask_note : where the mask comes from
    """

    half1: Tensor
    half2: Tensor
    volume: Tensor
    fsc: FscCurves
    pixel_size_angs: float
    n_particles: tuple[int, int]
    symmetry: str
    mask: Tensor | None = None
    mask_note: str = ""

    @property
    def resolution_angs(self) -> float:
        """Where the corrected correlation falls below 0.143."""
        return self.fsc.resolution_angs


def reconstruct_half_maps(
    table: ParticleTable,
    symmetry: str = "C1",
    device: torch.device | str = "cpu",
    weights: np.ndarray | None = None,
    mask: Tensor | None = None,
    resolution_limit_angs: float | None = None,
    use_ctf: bool = True,
    progress: Progress | None = None,
) -> HalfMaps:
    """Two maps of a table's half sets by direct Fourier inversion, their correlation, and the map of both.

    Parameters
    ----------
    table : particles of one box and pixel size, with poses; without CTF parameters their pictures count as projections
    weights : `(n,)` how much each particle counts, at least 0; by default all the same
    mask : `(n, n, n)` between 0 and 1, for the correlation; by default one is made from the half maps
    resolution_limit_angs : nothing finer is reconstructed
    use_ctf : False leaves the CTF out although it is known
    progress : called with the number of pictures done and their total

    Raises
    ------
    UserError : poses or weights that are no numbers, an empty half set, several boxes or pixel sizes, too little memory, and at
        the end all pictures that cannot be used, by name
    """
    group = point_group(symmetry)
    count = np.ones(len(table)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(table, count)
    inserter = Inserter(table, count, _radius(table, resolution_limit_angs), device, use_ctf)
    with exact_products(), one_thread_an_operation() as threads:
        workers = 1 if inserter.device.type == "cuda" else threads
        halves = sum_halves(inserter, _workers_of_half(inserter, workers), progress)
        first, second = (_half_map(half, group.matrices, workers) for half in halves)
        whole = halves[0]
        whole.merge(halves.pop())
        mask, note = _mask(first, second, mask, inserter.pixel_size_angs)
        fsc = fsc_curves(first, second, mask, inserter.pixel_size_angs, inserter.radius, workers)
        volume = without_corners(whole.map(_noise_to_signal(fsc).to(first) * whole.shell_weights(), workers=workers))
    numbers = int((table.half_set == 1).sum()), int((table.half_set == 2).sum())
    maps = first.cpu(), second.cpu(), volume.cpu()
    return HalfMaps(*maps, fsc, inserter.pixel_size_angs, numbers, group.name, mask.cpu(), note)


def _half_map(sums: FourierSums, group: Tensor, workers: int) -> Tensor:
    sums.join_mates()
    symmetrise(sums, group, workers)
    return without_corners(sums.map(LEAST_SHARE * sums.shell_weights(), workers=workers))


def _mask(first: Tensor, second: Tensor, given: Tensor | None, pixel_size_angs: float) -> tuple[Tensor, str]:
    """The mask to use, on the maps' device, and what it is."""
    if given is not None:
        return given.to(first), "as given"
    found = auto_mask(first, second, pixel_size_angs)
    if found is None:
        return soft_sphere(len(first), device=first.device), "the largest sphere: the half maps show no particle to mask"
    note = f"made from the half maps, low-passed to {found.lowpass_angs:.3g} Å, at {found.threshold_sigmas:.2g} times their noise"
    return found.mask, f"{note}; it holds {found.volume:.0%} of the box"


def _noise_to_signal(fsc: FscCurves) -> Tensor:
    """By shell, of the sum of both halves: with this share of a weight added to it, the quotient is Wiener's filter.

    The sum of both halves has the signal-to-noise ratio `2 FSC / (1 - FSC)`. From the first shell that is noise on, none is left.
    """
    correlation = fsc.corrected.clamp(1e-6, 1).clone()
    correlation[FIRST_SHELL + first_below(correlation[FIRST_SHELL:], NOTHING_LEFT) :] = 1e-6
    return ((1 - correlation) / (2 * correlation)).clamp(min=LEAST_NOISE)


def _radius(table: ParticleTable, resolution_limit_angs: float | None) -> float | None:
    if resolution_limit_angs is None:
        return None
    return float(table.image_size_px[0] * table.pixel_size_angs[0]) / resolution_limit_angs


def _check(table: ParticleTable, weights: np.ndarray) -> None:
    """What can be known before a picture is read; raises UserError."""
    problems = _number_problems(table, weights)
    kinds = {(int(box), round(float(pixel), 6)) for box, pixel in zip(table.image_size_px, table.pixel_size_angs, strict=True)}
    pixels = np.array([pixel for _, pixel in kinds])
    if len({box for box, _ in kinds}) > 1 or np.ptp(pixels) > PIXEL_TOLERANCE * pixels.min():
        named = ", ".join(f"{box} px of {pixel:g} Å" for box, pixel in sorted(kinds)[:SHOWN])
        problems.append(
            f"The particles have several boxes or pixel sizes ({named}), and a map has one: extract them again at one pixel size "
            "in one box, or reconstruct each kind by itself."
        )
    problems += [
        f"Half set {half} has no particles: there must be some in both." for half in (1, 2) if not (table.half_set == half).any()
    ]
    if problems:
        raise UserError(problems)


def _number_problems(table: ParticleTable, weights: np.ndarray) -> list[str]:
    problems = []
    for name, columns in (("angles", table.eulers_deg), ("shifts", table.shifts_angs)):
        rows = np.flatnonzero(~np.isfinite(columns).all(axis=1))
        if len(rows):
            problems.append(f"{_rows_text(rows)}: the {name} are not finite numbers. Take the particles out.")
    rows = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(rows):
        problems.append(f"{_rows_text(rows)}: weights must be numbers of at least 0. Mend them, or take the particles out.")
    nothing = [half for half in (1, 2) if (table.half_set == half).any() and not weights[table.half_set == half].any()]
    return problems + [f"All particles of half set {half} have the weight 0: give others, or leave them out." for half in nothing]


def _rows_text(rows: np.ndarray) -> str:
    shown = ", ".join(str(row + 1) for row in rows[:SHOWN])
    return f"Row{'s' if len(rows) > 1 else ''} {shown}" + (f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else "")


def _workers_of_half(inserter: Inserter, threads: int) -> int:
    """How many threads add pictures to each half: all, but fewer where their sums would not fit; tells what is needed."""
    device = inserter.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
    peaks = {count: _peak(inserter, count, threads) for count in range(1, max(1, threads // 2) + 1)}
    most = max((count for count, peak in peaks.items() if peak <= MEMORY_SHARE * free), default=0)
    told = f"Reconstructing a box of {inserter.size} px needs {size_text(peaks[most or 1])} of memory; {size_text(free)} are free"
    if not most:
        raise UserError(
            f"{told}, of which {MEMORY_SHARE:.0%} may be used: limit the resolution (--resolution_limit_angs), extract smaller "
            "pictures, or take a machine with more memory."
        )
    logger.info("%s", told)
    return most


def _peak(inserter: Inserter, workers: int, threads: int) -> float:
    """The most memory at a time: of all workers' sums; of both halves' with a map and a copy of one half's; or of maps.

    Symmetrising makes such a copy, and the density of the weights takes as much while it is computed.
    """
    one, voxels = sums_bytes(inserter.size, inserter.radius), inserter.size**3
    making = 3 * one + BYTES_TO_MAP * voxels
    largest = max(2 * workers * one, making, one + BYTES_TO_CORRELATE * voxels)
    return SLACK * (largest + threads * BYTES_OF_THREAD * inserter.size**2)
