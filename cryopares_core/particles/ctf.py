"""The contrast transfer function of `CTF(k) = sin(pi lambda df k^2 - pi/2 Cs lambda^3 k^4 + asin(Q0) + phase shift)`.

Defocus is positive for underfocus and particles are white on dark, so that `CTF(0) = +Q0` without a phase plate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_ctf import calculate_ctf_2d

from cryopares_core.particles.table import AS_TAKEN, FLIPPED

ANGS_PER_MICROMETRE = 1e4


@dataclass(frozen=True)
class CtfTensors:
    """The CTF parameters of a batch, each `(b,)` float32 on one device; names and units as in `CtfParameters`.

    `corrected` is None where all pictures are as taken: nothing has to be asked of the device then.
    """

    defocus_u_angs: Tensor
    defocus_v_angs: Tensor
    defocus_angle_deg: Tensor
    voltage_kv: Tensor
    cs_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_deg: Tensor
    corrected: Tensor | None = None

    def __len__(self) -> int:
        return len(self.defocus_u_angs)

    @property
    def known(self) -> bool:
        """Whether there are CTFs at all; a table that was read without them has zeros."""
        return bool((self.voltage_kv > 0).all())

    def chosen(self, indices: Tensor, device: torch.device | str = "cpu") -> CtfTensors:
        """Those of some indices `(k,)`, on a device."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return CtfTensors(**{name: column[indices].to(device) for name, column in columns.items() if column is not None})

    def where(self, as_taken: Tensor, flipped: Tensor | float, multiplied: Tensor | float) -> Tensor:
        """Of values `(b, …)` for each particle those that fit how its picture came."""
        if self.corrected is None:
            return as_taken
        kind = self.corrected.view(-1, *[1] * (as_taken.ndim - 1)).to(as_taken.device)
        return torch.where(kind == AS_TAKEN, as_taken, torch.where(kind == FLIPPED, flipped, multiplied).to(as_taken))

    def in_pictures(self, planes: Tensor) -> Tensor:
        """What the CTFs, `planes` `(b, …)`, are like in the pictures as they came: absolute values where phases were flipped,
        squares where pictures were multiplied by them.
        """
        return planes if self.corrected is None else self.where(planes, planes.abs(), planes.square())

    def left_to_multiply(self, planes: Tensor) -> Tensor:
        """By what pictures as they came have to be multiplied, so that they are as taken times their CTFs, `planes` `(b, …)`."""
        return planes if self.corrected is None else self.where(planes, planes.abs(), 1.0)


def ctf_tensors(ctf: Any, indices: Any = slice(None), device: torch.device | str = "cpu") -> CtfTensors:
    """Particles `indices` of any object with the fields of `CtfTensors` (arrays of one length), as tensors."""
    columns: dict[str, Any] = {field.name: getattr(ctf, field.name)[indices] for field in fields(CtfTensors)}
    if not np.any(columns["corrected"]):
        del columns["corrected"]
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
