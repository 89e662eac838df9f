"""From little noise to the particles' own: the way off the plateau where a fresh network learns nothing.

The half set's own map, made from its known poses, tells what of each picture is signal. A picture is taken apart into that and
the rest, its noise, and put together again with less noise and the signal of another pose:

    x' = P(R') + a (x - P(R)),    a rising from a_0 to 1

so that every picture has real noise, a real CTF, and a pose that the network never saw before. At `a = 1` and `R' = R` it
is the picture itself. How fast the noise rises depends on how well the network does.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryopares_core.geometry.rotations import (
    euler_degs_to_matrix,
    matrix_to_euler_degs,
    pose_error_degs,
    random_rotations,
)
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.particles.preprocess import PreprocessSettings, circular_mask
from cryopares_core.volumes.expected import ExpectedPictures, prepared_transfer
from cryopares_core.volumes.reconstruct import SliceAccumulator

logger = logging.getLogger(__name__)
FIRST_SNR = 2.0
MAP_PICTURES = 10_000  # that many slices make a map good enough; mates under symmetry count
EASY_SHARE = 0.35  # of the error of chance: below it the noise rises
RISE_A_STEP = 1.01
LONGEST_SHARE = 0.5  # of the training: by then the noise is the particles' own, come what may
MEMORY = 0.9  # of the running mean of errors, a step
PORTION = 250


@dataclass(frozen=True)
class KnownParticles:
    """All prepared pictures of a run `(n, c, s, s)` float16, their angles `(n, 3)` degrees and CTFs `(n,)`."""

    images: Tensor
    eulers_degs: Tensor
    ctf: CtfTensors


class NoiseCurriculum(nn.Module):
    """Holds the noise's level and changes batches accordingly.

    Parameters
    ----------
    expected : what pictures show
    snr : of the particles themselves
    group : the point group's matrices `(g, 3, 3)`
    """

    noise: Tensor
    error_degs: Tensor

    def __init__(self, expected: ExpectedPictures, snr: float, group: Tensor):
        super().__init__()
        self.expected, self.first_noise = expected, min(1.0, math.sqrt(snr / FIRST_SNR))
        self.easy_degs = EASY_SHARE * _error_of_chance(group)
        # In the checkpoint, so that a run goes on where it was.
        self.register_buffer("noise", torch.tensor(self.first_noise))
        self.register_buffer("error_degs", torch.tensor(180.0))

    @property
    def finished(self) -> bool:
        """The noise is the particles' own."""
        return float(self.noise) >= 1.0

    def forward(self, images: Tensor, eulers_degs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared pictures `(b, c, s, s)` float32 of particles `ids` and their angles `(b, 3)` -> others with less noise."""
        poses = random_rotations(len(images)).to(images)
        own = self.expected(ids, euler_degs_to_matrix(eulers_degs).float())
        changed = self.expected(ids, poses) + self.noise * (images - own)
        return changed, matrix_to_euler_degs(poses.double()).to(eulers_degs)

    def advance(self, error_degs: Tensor, step: int, total_steps: int) -> None:
        """Let the noise rise after a step whose pictures had these errors, `(b,)` degrees."""
        self.error_degs = MEMORY * self.error_degs + (1 - MEMORY) * error_degs.median().to(self.error_degs)
        latest = self.first_noise ** max(0.0, 1 - (step + 1) / (LONGEST_SHARE * total_steps))
        easy = self.error_degs < self.easy_degs
        self.noise = torch.where(easy, self.noise * RISE_A_STEP, self.noise).clamp(min=latest, max=1.0)


def make_curriculum(
    known: KnownParticles, ids: Tensor, settings: PreprocessSettings, symmetry: str, device: torch.device
) -> tuple[NoiseCurriculum | None, Tensor, float]:
    """The curriculum for particles `ids`, from the map that they make; None where their signal needs none.

    Returns
    -------
    also the map `(s, s, s)` and its resolution in Angstrom, at a Fourier shell correlation of 0.143
    """
    group = point_group(symmetry).matrices.float()
    volume, correlation = _reconstruct(known, ids, settings, group, device)
    size, sampling = len(volume), float(settings.sampling_rate_angs or 0)
    radius_px = min(size / 2 - 1, (settings.mask_radius_angs or math.inf) / sampling)
    masked = volume * _ball(size, radius_px, device)
    ctf = known.ctf.chosen(torch.arange(len(known.ctf)), device)
    expected = ExpectedPictures(masked, settings, ctf)
    some = ids[:PORTION].to(device)
    pictures = expected(some, euler_degs_to_matrix(known.eulers_degs[ids[:PORTION]]).float().to(device))
    disc = circular_mask(size, radius_px, device=device) > 0
    snr = float(pictures[:, -1][:, disc].var(dim=1).mean())  # the background's deviation is 1
    resolution = resolution_angs(correlation, sampling, size)
    return (NoiseCurriculum(expected, snr, group) if snr < FIRST_SNR else None), masked, resolution


def _reconstruct(
    known: KnownParticles, ids: Tensor, settings: PreprocessSettings, group: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Map and Fourier shell correlation of at most `MAP_PICTURES` slices, spread over the particles and their mates."""
    mates = min(len(group), max(1, MAP_PICTURES // len(ids)))
    chosen = ids[torch.linspace(0, len(ids) - 1, min(len(ids), MAP_PICTURES)).long()]
    sums = SliceAccumulator(known.images.shape[-1], device)
    for number, part in enumerate(chosen.split(PORTION)):
        transfer = prepared_transfer(settings, known.ctf, part)[:, 0].to(device)
        pictures = known.images[part, 0].to(device)
        poses = euler_degs_to_matrix(known.eulers_degs[part]).float()
        for mate in torch.randperm(len(group))[:mates]:
            sums.add(pictures, transfer, (poses @ group[mate]).to(device), number % 2)
    return sums.finish()


def resolution_angs(correlation: Tensor, sampling_rate_angs: float, size_px: int) -> float:
    """Where the Fourier shell correlation, by frequencies of the box, falls below 0.143; infinite if it never was above."""
    below = (correlation < 0.143).nonzero()
    shell = int(below[0]) if len(below) else len(correlation) - 1
    return size_px * sampling_rate_angs / shell if shell > 0 else math.inf


def _ball(size: int, radius_px: float, device: torch.device) -> Tensor:
    axis = torch.arange(size, device=device) - size // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    return ((radius_px - distance) / 3).clamp(0, 1)


def _error_of_chance(group: Tensor) -> float:
    """The median error of random answers, in degrees."""
    generator = torch.Generator().manual_seed(0)
    return float(pose_error_degs(random_rotations(2000, generator), random_rotations(2000, generator), group.double()).median())
