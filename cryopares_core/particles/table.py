"""All particles of a data set as arrays, with units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile

from cryopares_core.files import atomic_path


@dataclass(frozen=True)
class CtfParameters:
    """CTF parameters of n particles, each `(n,)` float64. Defocus is positive for underfocus."""

    defocus_u_angs: np.ndarray
    defocus_v_angs: np.ndarray
    defocus_angle_deg: np.ndarray
    voltage_kv: np.ndarray
    cs_mm: np.ndarray
    amplitude_contrast: np.ndarray
    phase_shift_deg: np.ndarray

    def subset(self, indices: np.ndarray) -> CtfParameters:
        return CtfParameters(*(getattr(self, item.name)[indices] for item in fields(self)))


@dataclass(frozen=True)
class ParticleTable:
    """Particles in the order of their STAR files.

    Attributes
    ----------
    stack_paths : the stacks, absolute, each once
    stack_id, slice_id : `(n,)` which stack, and which picture in it counted from 0
    eulers_deg : `(n, 3)` RELION's rot, tilt, psi in degrees
    shifts_angs : `(n, 2)` rlnOriginXAngst, rlnOriginYAngst: the shift that centres the particle
    pixel_size_angs, image_size_px : `(n,)` of the pictures in the stacks
    half_set : `(n,)` 1 or 2
    particles, optics : the STAR file's own rows as text, to be written again; optics is None before RELION 3.1
    """

    stack_paths: list[str]
    stack_id: np.ndarray
    slice_id: np.ndarray
    eulers_deg: np.ndarray
    shifts_angs: np.ndarray
    ctf: CtfParameters
    pixel_size_angs: np.ndarray
    image_size_px: np.ndarray
    half_set: np.ndarray
    particles: pd.DataFrame
    optics: pd.DataFrame | None

    def __len__(self) -> int:
        return len(self.slice_id)

    def subset(self, indices: np.ndarray) -> ParticleTable:
        """The particles of some indices, in that order; stacks and optics stay as they are."""
        names = ("stack_id", "slice_id", "eulers_deg", "shifts_angs", "pixel_size_angs", "image_size_px", "half_set")
        parts: dict[str, Any] = {name: getattr(self, name)[indices] for name in names}
        rows = self.particles.iloc[np.asarray(indices)].reset_index(drop=True)
        return replace(self, **parts, ctf=self.ctf.subset(indices), particles=rows)

    def write_star(self, path: Path, extra_columns: Mapping[str, Any] | None = None) -> None:
        """Write a RELION STAR file, all or nothing. Columns that were read keep their text; `extra_columns` are added."""
        rows = self.particles.assign(**dict(extra_columns or {}))
        blocks = {"": rows} if self.optics is None else {"optics": self.optics, "particles": rows}
        with atomic_path(path) as temporary:
            starfile.write(blocks, temporary, overwrite=True)
