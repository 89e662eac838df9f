"""The CTF at chosen frequencies only, where it is wanted for many particles: one matrix product and one sine for each.

The phase of `ctf.py` is linear in five functions of the frequency: `k^2 defocus` is the quadratic form `U (k e1)^2 + V (k e2)^2`
along the two axes of the astigmatism, and then there are `k^4` and a constant. A test holds it to `ctf.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch_ctf import calculate_relativistic_electron_wavelength

from cryopares_core.particles.ctf import CtfTensors

ANGS_PER_MM, ANGS_PER_METRE = 1e7, 1e10


class CtfAt:
    """The CTF of any particles at the same frequencies.

    Parameters
    ----------
    frequencies : `(2, k)` kx, ky in cycles per Å
    """

    def __init__(self, frequencies: Tensor):
        x, y = frequencies.double()
        square = x**2 + y**2
        self._functions = torch.stack((x * x, y * y, x * y, square**2, torch.ones_like(x))).float()

    def __call__(self, ctf: CtfTensors) -> Tensor:
        """`(b, k)` float32, on the frequencies' device."""
        return torch.sin(_phase_coefficients(ctf).to(self._functions) @ self._functions)


def _phase_coefficients(ctf: CtfTensors) -> Tensor:
    """`(b, 5)` factors of kx^2, ky^2, kx ky, k^4 and 1, in Å to the fitting power."""
    u, v = ctf.defocus_u_angs.double(), ctf.defocus_v_angs.double()
    wavelength = ANGS_PER_METRE * calculate_relativistic_electron_wavelength(1000 * ctf.voltage_kv).double()
    angle = torch.deg2rad(ctf.defocus_angle_deg.double())
    cos, sin = angle.cos(), angle.sin()
    defocus = math.pi * wavelength * torch.stack((u * cos**2 + v * sin**2, u * sin**2 + v * cos**2, 2 * (u - v) * sin * cos))
    spherical = -math.pi / 2 * ANGS_PER_MM * ctf.cs_mm.double() * wavelength**3
    constant = torch.asin(ctf.amplitude_contrast.double()) + torch.deg2rad(ctf.phase_shift_deg.double())
    return torch.stack((*defocus, spherical, constant), dim=1)
