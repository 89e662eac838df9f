"""The contrast transfer function of `CTF(k) = sin(pi lambda df k^2 - pi/2 Cs lambda^3 k^4 + asin(Q0) + phase shift)`.

Defocus is positive for underfocus and particles are white on dark, so that `CTF(0) = +Q0` without a phase plate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch_ctf import calculate_ctf_2d

ANGS_PER_MICROMETRE = 1e4


@dataclass(frozen=True)
class CtfTensors:
    """The CTF parameters of a batch, each `(b,)` float32 on one device; names and units as in `CtfParameters`."""

    defocus_u_angs: Tensor
    defocus_v_angs: Tensor
    defocus_angle_deg: Tensor
    voltage_kv: Tensor
    cs_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_deg: Tensor

    def __len__(self) -> int:
        return len(self.defocus_u_angs)

    @property
    def known(self) -> bool:
        """Whether there are CTFs at all; a table that was read without them has zeros."""
        return bool((self.voltage_kv > 0).all())

    def chosen(self, indices: Tensor, device: torch.device | str = "cpu") -> CtfTensors:
        """Those of some indices `(k,)`, on a device."""
        return CtfTensors(*(getattr(self, field.name)[indices].to(device) for field in fields(self)))


def ctf_tensors(ctf: Any, indices: Any = slice(None), device: torch.device | str = "cpu") -> CtfTensors:
    """Particles `indices` of any object with the fields of `CtfTensors` (arrays of one length), as tensors."""
    columns = {field.name: getattr(ctf, field.name)[indices] for field in fields(CtfTensors)}
    # Columns of a data frame may be read-only, which tensors cannot be: they are copied.
    return CtfTensors(**{name: torch.tensor(c, dtype=torch.float32, device=device) for name, c in columns.items()})


def ctf_2d(ctf: CtfTensors, pixel_size_angs: float, image_size_px: int) -> Tensor:
    """The CTF of each particle in rfft layout (origin first), `(b, n, n // 2 + 1)` float32.

    Parameters
    ----------
    pixel_size_angs : pixel size of the pictures, Å.
    image_size_px : side n of the pictures.
    """
    mean = (ctf.defocus_u_angs + ctf.defocus_v_angs) / 2
    half_difference = (ctf.defocus_u_angs - ctf.defocus_v_angs) / 2
    # torch-ctf takes a square root of the astigmatism, and a negative one (U < V) gives NaN: U, V, angle and
    # V, U, angle + 90 are the same CTF. Its documentation counts the angle from y, its code from x towards y as we do.
    angle = ctf.defocus_angle_deg + 90.0 * (half_difference < 0)
    return calculate_ctf_2d(
        defocus=mean / ANGS_PER_MICROMETRE,
        astigmatism=half_difference.abs() / ANGS_PER_MICROMETRE,
        astigmatism_angle=angle,
        voltage=ctf.voltage_kv,
        spherical_aberration=ctf.cs_mm,
        amplitude_contrast=ctf.amplitude_contrast,
        phase_shift=ctf.phase_shift_deg,
        pixel_size=float(pixel_size_angs),
        image_shape=(image_size_px, image_size_px),
        rfft=True,
        fftshift=False,
    )
