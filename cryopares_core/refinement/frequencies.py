"""The frequencies of pictures that refinement looks at, in the half plane and up to a limit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryopares_core.particles.ctf import CtfTensors, ctf_2d


class Frequencies:
    """Frequencies of pictures of one box and pixel size: one of each pair of opposite ones, without zero, the lowest first.

    Attributes
    ----------
    xy : `(2, p)` cycles per Å
    shell : `(p,)` rounded radius, in cycles a box
    finest_angs : the resolution that they reach

    Parameters
    ----------
    resolution_angs : the finest to look at; Nyquist's frequency itself is left out, which has no sign
    """

    def __init__(self, box: int, pixel_size_angs: float, resolution_angs: float, device: torch.device | str = "cpu"):
        self.box, self.pixel_size_angs, self.extent_angs = box, pixel_size_angs, box * pixel_size_angs
        limit = min(self.extent_angs / resolution_angs, (box - 1) / 2)
        self.finest_angs = self.extent_angs / limit
        whole = torch.arange(-math.floor(limit), math.floor(limit) + 1, device=device)
        y, x = (axis.flatten() for axis in torch.meshgrid(whole, whole, indexing="ij"))
        radius = torch.hypot(x.float(), y.float())
        order = torch.argsort(radius, stable=True)
        order = order[(radius <= limit)[order] & ((x > 0) | ((x == 0) & (y > 0)))[order]]
        self._x, self._y, self._radius = x[order], y[order], radius[order]
        self.xy = torch.stack((self._x, self._y)).float() / self.extent_angs
        self.shell = self._radius.round().long()
        # The particle's centre, pixel box // 2, becomes the origin.
        angle = (2 * math.pi * (box // 2) / box) * (self._x + self._y)
        self._centring = torch.polar(torch.ones_like(angle), angle)
        # A CTF up to the limit alone is that of a coarser picture of the same extent.
        self._ctf_box = min(box, 2 * math.floor(limit) + 2)

    def __len__(self) -> int:
        return len(self.shell)

    @property
    def n_shells(self) -> int:
        return int(self.shell[-1]) + 1 if len(self) else 1

    def count(self, resolution_angs: float) -> int:
        """How many of them, the lowest, are not finer than a resolution."""
        return int((self._radius <= self.extent_angs / resolution_angs + 1e-3).sum())

    def spectra(self, pictures: Tensor) -> Tensor:
        """Real and imaginary part `(b, 2, p)` of pictures `(b, n, n)`, the centre as origin, of mean square 1.

        A picture that is the same everywhere gives zeros.
        """
        centred = pictures - pictures.mean(dim=(1, 2), keepdim=True)
        values = self._chosen(torch.fft.rfft2(centred), self.box) * self._centring
        level = values.abs().square().mean(dim=1, keepdim=True).sqrt()
        return torch.view_as_real(values / level.clamp(min=1e-20)).movedim(-1, 1).contiguous()

    def ctf(self, ctf: CtfTensors) -> Tensor:
        """The CTF of each picture, `(b, p)`."""
        return self._chosen(ctf_2d(ctf, self.extent_angs / self._ctf_box, self._ctf_box), self._ctf_box)

    def _chosen(self, planes: Tensor, box: int) -> Tensor:
        """Their values in transforms of a box, `(b, n, n // 2 + 1)`."""
        return planes.flatten(1).index_select(1, (self._y % box) * (box // 2 + 1) + self._x)
