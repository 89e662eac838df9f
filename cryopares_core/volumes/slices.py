"""From pictures to the frequencies of a map's central slices: `F_picture(kx, ky) = c(kx, ky) F_map(A^T (kx, ky, 0))`."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PictureSlices:
    """Which frequencies of a picture a map is made of, and where they lie.

    Coordinates are RELION's, as in `Projector`. Frequencies beyond the circle have no counterpart in most other views.

    Parameters
    ----------
    size : side n of the pictures, px
    radius : of the circle, in cycles a box; by default half the box

    Attributes
    ----------
    frequencies : `(2, k)` kx, ky in cycles a box
    """

    def __init__(self, size: int, device: torch.device | str = "cpu", radius: float | None = None):
        self.size = size
        ky = torch.fft.fftfreq(size, 1 / size, device=device).round()[:, None].expand(-1, size // 2 + 1)
        kx = torch.arange(size // 2 + 1, device=device).expand(size, -1).float()
        inside = kx**2 + ky**2 < min(radius or math.inf, size / 2) ** 2
        # On the line kx = 0 a transform holds both mates of each frequency. One is enough: with both, the line would count twice.
        inside &= (kx > 0) | (ky >= 0)
        self.frequencies = torch.stack((kx, ky))[:, inside]
        self._places = inside.flatten().nonzero()[:, 0]
        self._axes = kx[0], ky[:, 0]

    def spectra(self, pictures: Tensor, origins_px: Tensor | None = None) -> Tensor:
        """The pictures' transforms about the particle's centre, `(b, k)` complex.

        Parameters
        ----------
        pictures : `(b, n, n)`
        origins_px : `(b, 2)` x, y: the shifts that centre the particles, which stand at pixel `n // 2` less the shift
        """
        spectra = torch.fft.rfft2(pictures.float())
        centres = self.size // 2 - (torch.zeros(1, 2) if origins_px is None else origins_px).to(spectra.device).double()
        for centre, frequencies, dim in zip(centres.unbind(1), self._axes, (1, 2), strict=True):
            turn = (2 * math.pi / self.size) * centre[:, None] * frequencies
            spectra *= torch.polar(torch.ones_like(turn), turn).to(spectra.dtype).unsqueeze(dim)
        return spectra.flatten(1).index_select(1, self._places)

    def at(self, values: Tensor) -> Tensor:
        """Those of `(b, n, n // 2 + 1)` values, in rfft layout, that belong to the frequencies: `(b, k)`."""
        return values.flatten(1).index_select(1, self._places)

    def points(self, poses: Tensor, scale: float) -> Tensor:
        """Where the frequencies lie in the map's transform for pose matrices A `(b, 3, 3)`: xyz times `scale`, `(3, b k)`."""
        # A^T (kx, ky, 0) takes the first two rows of A alone.
        rows = poses.to(self.frequencies)[:, :2].permute(2, 0, 1).reshape(-1, 2) * scale
        return (rows @ self.frequencies).view(3, -1)
