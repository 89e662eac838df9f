"""How strong signal and noise of pictures are at each frequency: some are compared with what the map shows at their poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.refinement.fit import Observed
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.pictures import Spectra

ENOUGH_PICTURES = 50  # fewer don't tell the map's amplitude at each frequency apart from chance
SURE_DEVIATIONS = 5.0
SMALLEST_NOISE_SHARE = 0.01  # of the power: pictures without noise must not hang on a few frequencies
SMALLEST = 1e-12
NEIGHBOURS = 2  # shells to either side over which the amplitude is averaged


@dataclass(frozen=True)
class ShellWeights:
    """By shell, `(s,)`: the deviation of the noise in a picture of mean square 1, and what the map is to be multiplied by."""

    noise: Tensor
    amplitude: Tensor

    def observed(self, pictures: Spectra) -> Observed:
        """Pictures ready to be compared with the map."""
        shell = pictures.frequencies.shell
        deviation = self.noise[shell]
        transfer = pictures.ctf * (self.amplitude[shell] / deviation)
        return Observed(pictures.values / deviation, transfer, pictures.frequencies.xy)


def equal_weights(frequencies: Frequencies) -> ShellWeights:
    """As long as nothing is known: white noise, and a map as it is."""
    ones = torch.ones(frequencies.n_shells, device=frequencies.xy.device)
    return ShellWeights(ones, ones)


class ShellSums:
    """Sums over pictures and the frequencies of each shell."""

    def __init__(self, frequencies: Frequencies):
        self.shell, self.pictures = frequencies.shell, 0
        self._sums = torch.zeros(3, frequencies.n_shells, dtype=torch.float64, device=frequencies.xy.device)
        self._size = torch.bincount(self.shell, minlength=frequencies.n_shells).clamp(min=1)

    def add(self, spectra: Tensor, models: Tensor) -> None:
        """Pictures and what the map shows in them, not weighted, both `(b, 2, p)`."""
        for place, product in enumerate((spectra.square(), spectra * models, models.square())):
            self._sums[place].index_add_(0, self.shell, product.sum(dim=(0, 1)).double())
        self.pictures += len(spectra)

    def weights(self) -> ShellWeights:
        """Amplitude by regression of the pictures on the map; noise is what is left of them.

        Where poses are wrong, fine detail looks as if the map did not show it, and counts less: that is what it deserves.
        """
        power, cross, norm = self._sums
        amplitude = self._amplitude()
        left = power - 2 * amplitude * cross + amplitude.square() * norm
        count = self._size * max(1, self.pictures)
        noise = torch.maximum(left, SMALLEST_NOISE_SHARE * power.clamp(min=SMALLEST * count)) / count
        return ShellWeights(noise.sqrt().float(), (amplitude / amplitude.max()).float())

    def _amplitude(self) -> Tensor:
        """`(s,)`, from each shell and its neighbours by how much they know; one for all where that is little."""
        power, cross, norm = self._sums / self._sums[0].clamp(min=SMALLEST)
        if self.pictures >= ENOUGH_PICTURES and self._agreement() > SURE_DEVIATIONS:
            cross, norm = _smoothed(cross), _smoothed(norm)
        else:
            cross, norm = (sums.sum().expand_as(power) for sums in (cross, norm))
        amplitude = (cross / norm.clamp(min=SMALLEST)).clamp(min=0)
        return amplitude if amplitude.any() else torch.ones_like(amplitude)

    def _agreement(self) -> float:
        """How much better pictures and map agree than by chance, in standard deviations."""
        power, cross, norm = self._sums
        weight = (2 * self._size * max(1, self.pictures)) / power.clamp(min=SMALLEST)  # of a real or an imaginary part
        return float((cross * weight).sum() / (norm * weight).sum().clamp(min=SMALLEST).sqrt())


def _smoothed(values: Tensor) -> Tensor:
    """Sums `(s,)` over a few neighbouring shells."""
    return torch.nn.functional.avg_pool1d(values[None], 2 * NEIGHBOURS + 1, 1, NEIGHBOURS)[0]
