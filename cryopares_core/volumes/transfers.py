"""What the microscope and earlier programs have done to the slices in particles' pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.ctf_at import CtfAt
from cryopares_core.particles.table import ParticleTable
from cryopares_core.particles.text import to_floats

FLIPPED, MULTIPLIED = "rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"


class Transfers:
    """The CTF of a table's particles, as it is in their pictures.

    Parameters
    ----------
    frequencies : `(2, k)` in cycles per Å, on the device that does the work
    use_ctf : without, as for particles whose CTF is not known, all factors are 1
    """

    def __init__(self, table: ParticleTable, frequencies: Tensor, use_ctf: bool = True):
        self._ctf = ctf_tensors(table.ctf)
        self._used = use_ctf and self._ctf.known
        self._at, self._count = CtfAt(frequencies), frequencies.shape[1]
        self._device = frequencies.device
        self._corrected = Corrected(table)

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Of particles `(b,)`, `(b, k)` each: what to multiply the pictures' transforms by, and the weight, the CTF squared."""
        if not self._used:
            ones = torch.ones(len(indices), self._count, device=self._device)
            return ones, ones
        ctf = self._at(self._ctf.chosen(indices))
        before, multiplied = self._corrected.before(ctf, indices), self._corrected.multiplied(indices, ctf)
        left = ctf if before is None else ctf * before
        return torch.where(multiplied, 1.0, left) if multiplied.any() else left, ctf.square()


class Corrected:
    """Which pictures of a table came with their CTFs corrected: phases flipped, or multiplied by the CTF."""

    def __init__(self, table: ParticleTable):
        self._flipped, self._multiplied = (torch.from_numpy(_of_group(table, name)) for name in (FLIPPED, MULTIPLIED))

    def multiplied(self, indices: Tensor, like: Tensor) -> Tensor:
        """Which of particles `(b,)` were multiplied, in a shape that goes with values `(b, …)`."""
        return _beside(self._multiplied[indices], like)

    def before(self, ctf: Tensor, indices: Tensor) -> Tensor | None:
        """What the pictures of particles `(b,)` were multiplied by, given their CTFs `(b, …)`; None where all are as taken."""
        flipped, multiplied = _beside(self._flipped[indices], ctf), self.multiplied(indices, ctf)
        if not (flipped.any() or multiplied.any()):
            return None
        factor = torch.where(flipped & (ctf < 0), -1.0, 1.0)
        return torch.where(multiplied, ctf, factor)


def _beside(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (like.ndim - 1)).to(like.device)


def _of_group(table: ParticleTable, name: str) -> np.ndarray:
    """Which particles' optics groups say yes to something, `(n,)`."""
    if table.optics is None or name not in table.optics:
        return np.zeros(len(table), dtype=bool)
    groups = to_floats(table.optics["rlnOpticsGroup"])[to_floats(table.optics[name]) == 1]
    return np.isin(to_floats(table.particles["rlnOpticsGroup"]), groups)
