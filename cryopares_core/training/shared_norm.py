"""Batch norms over the pictures of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


def share_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its batch norms replaced, under the same names and with the same tensors."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for norm in [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]:
        norm.__class__ = SharedBatchNorm
    return module


class _SumOverProcesses(torch.autograd.Function):
    """The sum, and as its gradient the sum of all processes' gradients: each one's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """What `SyncBatchNorm` is on GPUs, for processors, where PyTorch has none."""

    def forward(self, input: Tensor) -> Tensor:
        """`(b, c, h, w)` -> the same, with each channel's mean and variance over all processes as 0 and 1."""
        if not self.training:
            return super().forward(input)
        wide = input.float()
        mean, variance, count = self._of_all(*torch.var_mean(wide, (0, 2, 3), correction=0), wide[:, 0].numel())
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    @staticmethod
    def _of_all(variance: Tensor, mean: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and count over all processes from those of this one.

        From means and variances, not from sums of squares, whose difference loses digits (Chan, Golub & LeVeque 1983).
        """
        rank, n_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        own = torch.stack((mean, variance, torch.full_like(mean, count)))
        rows = torch.stack([own if place == rank else torch.zeros_like(own) for place in range(n_ranks)])
        means, variances, counts = _SumOverProcesses.apply(rows).unbind(1)
        shares = counts / counts.sum(0)
        together = (shares * means).sum(0)
        return together, (shares * (variances + (means - together).square())).sum(0), counts.sum(0)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """The running values that validation uses."""
        momentum = self.momentum or 0.1
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)
