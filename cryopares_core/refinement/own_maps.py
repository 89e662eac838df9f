"""The half maps of an iteration: made of the particles at their poses, kept in a folder, and filtered as references."""

from __future__ import annotations

import fcntl
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.fsc import read_fsc
from cryopares_core.progress import Countdown
from cryopares_core.refinement.maps import Reference
from cryopares_core.volumes.fsc import FIRST_SHELL, THRESHOLD, first_below, resolution_angs
from cryopares_core.volumes.half_map_files import FSC_CSV, HALVES, SUMMARY, write_half_maps
from cryopares_core.volumes.half_maps import reconstruct_half_maps
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.masks import soft_sphere

logger = logging.getLogger(__name__)
LIMIT_THRESHOLD = 0.5  # of the FSC: detail that is finer brings in more noise than signal
MIN_CORRELATION = 0.05  # a shell below this, and all after it, is noise
LOCK = ".maps.lock"
MIN_SHELLS = 5  # coarser detail, of a fifth of the box, does not tell a pose


@dataclass(frozen=True)
class OwnMaps:
    """Half maps `(n, n, n)` `[z, y, x]`, not filtered, and their correlation by shell `(n // 2 + 1,)`, corrected for the mask."""

    halves: tuple[np.ndarray, np.ndarray]
    pixel_size_angs: float
    correlation: Tensor

    @property
    def size_angs(self) -> float:
        return len(self.halves[0]) * self.pixel_size_angs

    @property
    def resolution_angs(self) -> float:
        """Where the correlation falls below 0.143."""
        return self._resolution_angs(THRESHOLD)

    @property
    def limit_angs(self) -> float:
        """The finest detail to refine with."""
        return self._resolution_angs(LIMIT_THRESHOLD)

    def _resolution_angs(self, threshold: float) -> float:
        """The first shells hold the background rather than the particle: they do not decide."""
        correlation = self.correlation.clone()
        correlation[:FIRST_SHELL] = 1
        return resolution_angs(correlation, self.size_angs, threshold)

    @property
    def agree(self) -> bool:
        """Whether the half maps share detail that is fine enough for poses."""
        return self.limit_angs <= self.size_angs / MIN_SHELLS

    def reference(self, half: int) -> Reference:
        """The map of half set 1 or 2, each shell multiplied by its correlation: Wiener's filter of a half map, S / (S + N)."""
        weight = self.correlation.clamp(0, 1).clone()
        weight[FIRST_SHELL + first_below(weight[FIRST_SHELL:], MIN_CORRELATION) :] = 0
        return Reference(filtered(self.halves[half - 1], weight), self.pixel_size_angs)


def filtered(volume: np.ndarray, weight: Tensor) -> np.ndarray:
    """A map `(n, n, n)` with its shells multiplied by a weight `(n // 2 + 1,)`, linear between shells."""
    n = len(volume)
    spectrum = torch.fft.rfftn(torch.from_numpy(volume))
    k, x = torch.fft.fftfreq(n, 1 / n), torch.arange(n // 2 + 1)
    for z in range(n):  # plane by plane: large maps leave little memory
        radius = (k[z] ** 2 + k[:, None] ** 2 + x**2).sqrt()
        below = radius.long().clamp(max=len(weight) - 1)
        above = (below + 1).clamp(max=len(weight) - 1)
        spectrum[z] *= torch.lerp(weight[below], weight[above], radius - radius.floor())
    return torch.fft.irfftn(spectrum, s=(n, n, n)).numpy()


def make_own_maps(
    folder: Path,
    table: ParticleTable,
    weights: np.ndarray,
    symmetry: str,
    mask_radius_angs: float | None,
    use_ctf: bool,
    device: torch.device,
) -> OwnMaps:
    """The half maps of a table's poses, from the folder if they are there; one process makes them, others wait for it.

    Parameters
    ----------
    weights : `(n,)` above 0
    mask_radius_angs : of the sphere in which the half maps are compared

    Raises
    ------
    UserError : as `reconstruct_half_maps`
    """
    with _alone(folder):
        if not (folder / SUMMARY).is_file():
            mask = _mask(table, mask_radius_angs)
            progress = Countdown("Reconstructed from", "poses")
            found = reconstruct_half_maps(table, symmetry, device, weights, mask, use_ctf=use_ctf, progress=progress)
            write_half_maps(folder, found)
    return read_own_maps(folder)


def read_own_maps(folder: Path) -> OwnMaps:
    """What `make_own_maps` wrote. Raises UserError where files are damaged."""
    columns = read_fsc(folder / FSC_CSV)
    if columns is None:
        raise UserError(f"{folder / FSC_CSV}: missing or damaged. Remove {folder} and run the same command again.")
    (first, pixel), (second, _) = (read_map(folder / name, what="Half map") for name in HALVES)
    return OwnMaps((first, second), pixel, torch.from_numpy(np.asarray(columns["corrected"], dtype=np.float32)))


def _mask(table: ParticleTable, radius_angs: float | None) -> Tensor | None:
    size, pixel = int(table.image_size_px[0]), float(table.pixel_size_angs[0])
    if radius_angs is None or radius_angs / pixel >= size / 2:
        return None
    return soft_sphere(size, radius_angs / pixel)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within the block no other process makes maps in a folder; a disk without locks lets all in, which write the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("%s: the disk has no locks (%s)", folder, error)
        yield


def turn_scale_degs(limit_angs: float, radius_angs: float) -> float:
    """By so much a particle turns when detail at its edge moves by a third of the resolution limit."""
    return math.degrees(limit_angs / (3 * radius_angs))
