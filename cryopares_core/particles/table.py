"""All particles of a data set as arrays, with units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryopares_core.particles.starwrite import write_tables

AS_TAKEN, FLIPPED, MULTIPLIED = 0, 1, 2
NAMES_SHOWN = 5
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


@dataclass(frozen=True)
class CtfParameters:
    """CTF parameters of n particles, each `(n,)` float64. Defocus is positive for underfocus.

    `corrected` says how the pictures came: as taken (0), with their phases flipped (1), multiplied by their CTFs (2).
    """

    defocus_u_angs: np.ndarray
    defocus_v_angs: np.ndarray
    defocus_angle_deg: np.ndarray
    voltage_kv: np.ndarray
    cs_mm: np.ndarray
    amplitude_contrast: np.ndarray
    phase_shift_deg: np.ndarray
    corrected: np.ndarray

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

    def with_poses(self, eulers_deg: np.ndarray, shifts_angs: np.ndarray | None = None) -> ParticleTable:
        """The same particles with other poses `(n, 3)` and shifts `(n, 2)`, also in the rows that are written.

        Shifts go into the columns that there are, in Å or (before RELION 3.1) in pixels.
        """
        columns = dict(zip(ANGLES, np.asarray(eulers_deg, dtype=np.float64).T, strict=True))
        shifts = self.shifts_angs if shifts_angs is None else np.asarray(shifts_angs, dtype=np.float64)
        if shifts_angs is not None:
            for axis, shift in zip("XY", shifts.T, strict=True):
                in_angs, in_pixels = f"rlnOrigin{axis}Angst", f"rlnOrigin{axis}"
                if in_pixels in self.particles or (self.optics is None and in_angs not in self.particles):
                    columns[in_pixels] = shift / self.pixel_size_angs
                if in_angs in self.particles or in_pixels not in columns:
                    columns[in_angs] = shift
        return replace(
            self, eulers_deg=np.array(eulers_deg), shifts_angs=np.array(shifts), particles=self.particles.assign(**columns)
        )

    def picture_names(self, indices: np.ndarray) -> list[str]:
        """Of particles `(k,)`, as they stand in the STAR file."""
        names: list[str] = self.particles["rlnImageName"].iloc[indices].tolist()
        return names

    def names_for_a_sentence(self, indices: np.ndarray) -> str:
        """Of the first of particles `(k,)`."""
        return ", ".join(self.picture_names(indices[:NAMES_SHOWN])) + (", …" if len(indices) > NAMES_SHOWN else "")

    def write_star(self, path: Path, extra_columns: Mapping[str, Any] | None = None) -> None:
        """Write a RELION STAR file, all or nothing. Cells that were read keep their text; `extra_columns` are added or replaced."""
        rows = self.particles.assign(**dict(extra_columns or {}))
        write_tables(path, {"": rows} if self.optics is None else {"optics": self.optics, "particles": rows})
