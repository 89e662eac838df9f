"""A map from pictures with known poses: each picture's transform is a central slice of the map's.

The transfer functions enter as in a Wiener filter (`sum c Y / sum c^2` over all slices through a frequency), and two maps from
the two halves of the pictures tell, shell by shell, how much of the sum is signal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.volumes.fourier_sums import FourierSums
from cryopares_core.volumes.slices import PictureSlices

BATCH_POINTS = 2_000_000


class SliceAccumulator:
    """The sums of slices and of their weights on a padded Fourier grid, for two halves of the pictures.

    Coordinates are RELION's, as in `Projector`: `F_picture(kx, ky) = c(kx, ky) F_map(A^T (kx, ky, 0))`.

    Parameters
    ----------
    size : side n of the pictures and of the map, px
    device : where the work is done
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.size = size
        self.halves = [FourierSums(size, device) for _ in range(2)]
        self._slices = PictureSlices(size, device)

    def add(self, pictures: Tensor, transfer: Tensor, poses: Tensor, half: int) -> None:
        """Add pictures to one half's sums.

        Parameters
        ----------
        pictures : `(b, n, n)`, centred
        transfer : `(b, n, n // 2 + 1)` what the map's slices were multiplied by, in rfft layout
        poses : `(b, 3, 3)` pose matrices A
        half : 0 or 1
        """
        sums = self.halves[half]
        portion = max(1, BATCH_POINTS // self._slices.frequencies.shape[1])
        for part in torch.arange(len(pictures), device=pictures.device).split(portion):
            weight = self._slices.at(transfer[part].float())
            values = self._slices.spectra(pictures[part]) * weight
            sums.add(self._slices.points(poses[part], sums.grid / self.size), values.view(-1), weight.square().view(-1))

    def finish(self) -> tuple[Tensor, Tensor]:
        """The map `(n, n, n)` `[z, y, x]` float32, filtered by its own signal, and the Fourier shell correlation of the halves.

        This ends the sums: nothing can be added afterwards.

        The correlation is that of shells 0 ... n // 2 in steps of one frequency of the box, `(n // 2 + 1,)`.
        """
        for half in self.halves:
            half.join_mates()
        correlation = self._shell_correlation()
        # The signal's share of the sum of both halves (Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013).
        kept = 2 * correlation / (1 + correlation)
        whole = self.halves[0]
        whole.merge(self.halves.pop())
        return whole.map(_damping(whole), kept), correlation

    def _shell_correlation(self) -> Tensor:
        """By shell; from the first one without correlation on, 0."""
        first, second = (half.quotient(_damping(half)) for half in self.halves)
        count = self.size // 2 + 1
        shells = self.halves[0].shells().flatten()
        inside = shells < count

        def shell_sum(values: Tensor) -> Tensor:
            return torch.zeros(count, device=values.device).index_add_(0, shells[inside], values.flatten()[inside])

        cross = shell_sum((first * second.conj()).real)
        power = shell_sum(first.abs() ** 2) * shell_sum(second.abs() ** 2)
        correlation = (cross / power.sqrt().clamp(min=1e-30)).clamp(0, 1)
        return correlation * (correlation > 0.05).float().cumprod(dim=0)


def _damping(sums: FourierSums) -> Tensor:
    """A hundredth of the mean weight, in all shells, keeps places that hardly any slice met from noise."""
    return (0.01 * sums.inner(sums.weights).mean()).expand(sums.size // 2 + 1)
