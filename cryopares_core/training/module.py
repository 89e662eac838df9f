"""What one batch of pictures gives: loss, poses and their errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.network import PoseNetwork

NEWTON_STEPS_TRAINING, NEWTON_STEPS_VALIDATION = 2, 4


class PoseTraining(nn.Module):
    """A `PoseNetwork` with what judges its answers.

    Parameters
    ----------
    network : the network to train
    symmetry : the point group under which errors are the smallest
    mask : `(n, n)` soft circular mask, laid on each picture after augmentation
    bfloat16 : whether the encoder computes with it. Fabric's own way would round the known angles too, to half a degree.
    """

    mask: Tensor
    group: Tensor

    def __init__(self, network: PoseNetwork, symmetry: str, mask: Tensor, bfloat16: bool = False):
        super().__init__()
        self.network, self.in_bfloat16 = network, bfloat16
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("group", point_group(symmetry).matrices.float(), persistent=False)
        self._scores: Callable[[Tensor, Tensor], Any] = network.scores

    def compile_step(self, whole: bool) -> None:
        """Compile the training step, as one graph if `whole`. Validation, whose batches have several sizes, stays as it is."""
        self._scores = torch.compile(self.network.scores, fullgraph=whole)

    def forward(self, images: Tensor, eulers_degs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures `(b, c, n, n)` float32 and known angles `(b, 3)` in degrees -> losses `(b,)`, with their gradients; and
        without: the network's coefficients `(n_coefficients, b)`, predicted poses `(b, 3, 3)`, their errors `(b,)` in degrees.
        """
        scores = self._scores if self.training else self.network.scores
        newton_steps = NEWTON_STEPS_TRAINING if self.training else NEWTON_STEPS_VALIDATION
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            coefficients, values, losses = scores(images * self.mask, eulers_degs)
        with torch.no_grad():
            coefficients = coefficients.detach()
            poses = self.network.density.poses(coefficients, values.detach(), newton_steps)
            return losses, coefficients, poses, pose_error_degs(poses, euler_degs_to_matrix(eulers_degs), self.group)
