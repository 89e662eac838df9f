"""The map that a half set's particles make, from their known poses, and how well it explains pictures that it was not made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import euler_degs_to_matrix, random_rotations
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.particles.preprocess import PreprocessSettings, circular_mask
from cryopares_core.progress import Countdown
from cryopares_core.volumes.expected import ExpectedPictures, prepared_transfer
from cryopares_core.volumes.reconstruct import SliceAccumulator

MAP_PICTURES = 5_000  # that many slices make a map good enough; mates under symmetry count
LOOKED_AT = 500  # pictures for the signal's level and the agreement
PORTION = 250
EDGE_PX = 3.0


@dataclass(frozen=True)
class KnownParticles:
    """All prepared pictures of a run `(n, c, s, s)` float16, their angles `(n, 3)` degrees and CTFs `(n,)`."""

    images: Tensor
    eulers_degs: Tensor
    ctf: CtfTensors

    def poses(self, ids: Tensor, device: torch.device) -> Tensor:
        """Pose matrices `(b, 3, 3)` float32."""
        return euler_degs_to_matrix(self.eulers_degs[ids]).float().to(device)


@dataclass(frozen=True)
class StartingMap:
    """A map and what it tells.

    Attributes
    ----------
    volume : `(s, s, s)` `[z, y, x]`, masked, on the grid of prepared pictures; background deviations are the unit
    expected : the pictures that it predicts
    snr : variance of the signal in the particle's disc over that of the noise, in a prepared picture
    resolution_angs : where the Fourier shell correlation of its halves falls below 0.143
    agreement : how much better pictures that are not in the map fit it at their own poses than at random ones: 1 if they show it
        at these poses, 0 if the poses say nothing
    """

    volume: Tensor
    expected: ExpectedPictures
    snr: float
    resolution_angs: float
    agreement: float


def make_starting_map(
    known: KnownParticles,
    ids: Tensor,
    held_out_ids: Tensor,
    settings: PreprocessSettings,
    group: Tensor,
    device: torch.device,
) -> StartingMap:
    """The map of particles `ids`, judged by particles `held_out_ids`.

    Parameters
    ----------
    settings : of the preparation, with sampling and size as numbers
    group : the point group's matrices `(g, 3, 3)`
    """
    volume, correlation = _reconstruct(known, ids, settings, group.float(), device)
    size, sampling = len(volume), float(settings.sampling_rate_angs or 0)
    radius_px = min(size / 2 - 1, (settings.mask_radius_angs or math.inf) / sampling)
    masked = volume * _ball(size, radius_px, device)
    expected = ExpectedPictures(masked, settings, known.ctf.chosen(torch.arange(len(known.ctf)), device))
    disc = circular_mask(size, radius_px, device=device)
    snr, agreement = _fit(known, held_out_ids[:LOOKED_AT], expected, disc, device)
    return StartingMap(masked, expected, snr, resolution_angs(correlation, sampling, size), agreement)


def _reconstruct(
    known: KnownParticles, ids: Tensor, settings: PreprocessSettings, group: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Map and Fourier shell correlation of at most `MAP_PICTURES` slices, spread over the particles and their mates."""
    mates = min(len(group), max(1, MAP_PICTURES // len(ids)))
    chosen = ids[torch.linspace(0, len(ids) - 1, min(len(ids), MAP_PICTURES)).long()]
    sums = SliceAccumulator(known.images.shape[-1], device)
    generator = torch.Generator().manual_seed(0)  # the same map again for a run that goes on
    progress, done = Countdown("Added to the starting map", "pictures"), 0
    for half in (0, 1):
        for part in chosen[half::2].split(PORTION):
            transfer = prepared_transfer(settings, known.ctf, part)[:, 0].to(device)
            pictures, poses = known.images[part, 0].to(device), known.poses(part, device)
            for mate in torch.randperm(len(group), generator=generator)[:mates]:
                sums.add(pictures, transfer, poses @ group[mate].to(device), half)
            done += len(part)
            progress(done, len(chosen))
    return sums.finish()


def _fit(known: KnownParticles, ids: Tensor, expected: ExpectedPictures, disc: Tensor, device: torch.device) -> tuple[float, float]:
    """The signal's variance in the disc, and the agreement with pictures at their own poses and not at others.

    If x = P(R) + noise, then x - (P(R) + P(R')) / 2 is half of P(R) - P(R'): the regression's slope tells how much of it is so.
    """
    variance = cross = square = 0.0
    for part in ids.split(PORTION):
        pictures = known.images[part].to(device).float()
        others = random_rotations(len(part), torch.Generator().manual_seed(0)).float().to(device)
        own, other = (expected(part.to(device), poses) for poses in (known.poses(part, device), others))
        variance += float(own[:, -1][:, disc > 0].var(dim=1).sum())
        difference = (own - other) * disc
        cross += float(((pictures - (own + other) / 2) * difference).sum())
        square += float(difference.square().sum())
    return variance / len(ids), 2 * cross / max(square, 1e-12)


def resolution_angs(correlation: Tensor, sampling_rate_angs: float, size_px: int) -> float:
    """Where the Fourier shell correlation, by frequencies of the box, falls below 0.143; infinite if it never was above."""
    below = (correlation < 0.143).nonzero()
    shell = int(below[0]) if len(below) else len(correlation) - 1
    return size_px * sampling_rate_angs / shell if shell > 0 else math.inf


def _ball(size: int, radius_px: float, device: torch.device) -> Tensor:
    axis = torch.arange(size, device=device) - size // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    return ((radius_px - distance) / EDGE_PX).clamp(0, 1)
