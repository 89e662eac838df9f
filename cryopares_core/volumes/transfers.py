"""What the microscope and earlier programs have done to the slices in particles' pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.ctf_at import CtfAt
from cryopares_core.particles.table import ParticleTable


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

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Of particles `(b,)`, `(b, k)` each: what to multiply the pictures' transforms by, and the weight, the CTF squared."""
        if not self._used:
            ones = torch.ones(len(indices), self._count, device=self._device)
            return ones, ones
        chosen = self._ctf.chosen(indices)
        ctf = self._at(chosen)
        return chosen.left_to_multiply(ctf), ctf.square()
