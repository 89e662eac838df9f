"""From little noise to the particles' own: the way off the plateau where a fresh network learns nothing.

The half set's own map, made from its known poses, tells what of each picture is signal. A picture is taken apart into that and
the rest, its noise, and put together again with less noise and the signal of another pose:

    x' = P(R') + a (x - P(R)),    a rising from a_0 to 1

so that every picture has real noise, a real CTF, and a pose that the network never saw before. At `a = 1` and `R' = R` it
is the picture itself. How fast the noise rises depends on how well the network does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cryopares_core.geometry.rotations import (
    euler_degs_to_matrix,
    matrix_to_euler_degs,
    pose_error_degs,
    random_rotations,
)
from cryopares_core.training.starting_map import StartingMap

FIRST_SNR = 10.0
LEAST_NOISE = 0.05
EASY_SHARE = 0.35  # of the error of chance: below it the noise rises
RISE_A_STEP = 1.01
LONGEST_SHARE = 0.5  # of the training: by then the noise is the particles' own, come what may
MEMORY = 0.9  # of the running mean of errors, a step


class NoiseCurriculum(nn.Module):
    """Holds the noise's level and changes batches accordingly.

    Parameters
    ----------
    known : the map that the particles make, and their signal
    group : the point group's matrices `(g, 3, 3)`
    """

    noise: Tensor
    error_degs: Tensor

    def __init__(self, known: StartingMap, group: Tensor):
        super().__init__()
        self.expected = known.expected
        self.first_noise = min(1.0, max(LEAST_NOISE, math.sqrt(known.snr / FIRST_SNR)))
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


def _error_of_chance(group: Tensor) -> float:
    """The median error of random answers, in degrees."""
    generator = torch.Generator().manual_seed(0)
    return float(pose_error_degs(random_rotations(2000, generator), random_rotations(2000, generator), group.double()).median())
