"""Poses of prepared pictures by one network, or by several that answer together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cryopares_core.model.modes import ModeFinder, Modes
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.turns import average_over_quarter_turns


class PosePredictor:
    """The modes of the density that networks give, the mean of their log-densities.

    Parameters
    ----------
    networks : with the same degrees, grid and symmetry; they are moved to the device, in evaluation mode
    mask : `(n, n)` laid on each picture
    symmetry : the point group's name
    device : where the work is done
    bfloat16 : whether encoders compute with it
    count : how many modes are wanted
    quarter_turns : average over the four turns of each picture, at four times the cost
    """

    def __init__(
        self,
        networks: Sequence[PoseNetwork],
        mask: Tensor,
        symmetry: str,
        device: torch.device,
        bfloat16: bool = False,
        count: int = 1,
        quarter_turns: bool = False,
    ):
        self.networks = [network.to(device).eval() for network in networks]
        self.mask, self.device, self.bfloat16 = mask.to(device), device, bfloat16
        density = self.networks[0].density
        self.find = ModeFinder(density, symmetry, count)
        self.answers = [
            partial(average_over_quarter_turns, network, density.wigner) if quarter_turns else network for network in self.networks
        ]

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Modes:
        """Prepared images `(b, c, n, n)`, not masked -> their modes, on the device."""
        return self.find(self.coefficients(pictures))

    @torch.inference_mode()
    def coefficients(self, images: Tensor) -> Tensor:
        """Prepared images `(b, c, n, n)`, not masked -> the mean of the networks' coefficients, `(n_coefficients, b)`."""
        masked = images.to(self.device).float() * self.mask
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return torch.stack([answer(masked) for answer in self.answers]).mean(dim=0)
