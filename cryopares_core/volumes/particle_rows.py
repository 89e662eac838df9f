"""What is drawn at random for a simulation: poses, shifts, defocus and half sets, as rows of a RELION STAR file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cryopares_core.particles.ctf import CtfTensors

DECIMALS = 6
PARTICLES_PER_MICROGRAPH = 50
DEFOCUS_SPREAD_ANGS = 150.0  # of particles in one micrograph
# Microscopes of the optics groups, in turn: voltage in kV, spherical aberration in mm, amplitude contrast.
MICROSCOPES = ((300.0, 2.7, 0.10), (200.0, 2.0, 0.07))


@dataclass(frozen=True)
class SimulationSettings:
    """What to simulate. The SNR is per pixel, inside a disc of `mask_radius_angs` (None: 0.42 of the box)."""

    n_particles: int = 2000
    snr: float = 1.0
    seed: int = 0
    sigma_shift_px: float = 2.0
    max_shift_px: float = 5.0
    defocus_min_angs: float = 8000.0
    defocus_max_angs: float = 25000.0
    astigmatism_angs: float = 400.0
    n_optics_groups: int = 2
    mask_radius_angs: float | None = None
    stack_size: int = 1000
    dtype: str = "float32"


@dataclass(frozen=True)
class PictureRows:
    """The truth about some pictures: `(b, 3)` RELION angles in degrees, CTF, `(b, 2)` origins x, y in Å (float64)."""

    eulers_degs: Tensor
    ctf: CtfTensors
    shifts_angs: Tensor


@dataclass(frozen=True)
class DrawnParticles:
    """The two tables of a STAR file, rounded as they are written, and the names of its stacks."""

    optics: pd.DataFrame
    particles: pd.DataFrame
    stack_names: list[str]

    def rows(self, chosen: np.ndarray) -> PictureRows:
        """The values of some particles, as a reader of the STAR file would see them."""
        part = self.particles.iloc[chosen]
        optics = self.optics.set_index("rlnOpticsGroup").loc[part["rlnOpticsGroup"]]
        particle_columns = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
        optics_columns = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
        columns = [part[name] for name in particle_columns] + [optics[name] for name in optics_columns]
        ctf = CtfTensors(*(torch.tensor(c.to_numpy(np.float32)) for c in [*columns, part["rlnPhaseShift"]]))
        eulers, shifts = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"], ["rlnOriginXAngst", "rlnOriginYAngst"]
        return PictureRows(torch.tensor(part[eulers].to_numpy()), ctf, torch.tensor(part[shifts].to_numpy()))


def draw_particles(settings: SimulationSettings, box: int, pixel_size_angs: float, folder: str) -> DrawnParticles:
    """Draw all particles of a simulation; the same settings give the same rows. Stacks are named below `folder`."""
    rng, count = np.random.default_rng(settings.seed), settings.n_particles
    micrograph = rng.permutation(np.arange(count) // PARTICLES_PER_MICROGRAPH)
    stack, place = np.divmod(np.arange(count), settings.stack_size)
    names = [f"{folder}/particles_{number + 1:03d}.mrcs" for number in range(stack[-1] + 1)]
    shifts = rng.normal(0.0, settings.sigma_shift_px, (2, count)).clip(-settings.max_shift_px, settings.max_shift_px)
    columns = {
        "rlnCoordinateX": rng.uniform(100, 3900, count),
        "rlnCoordinateY": rng.uniform(100, 3900, count),
        "rlnImageName": [f"{row + 1:06d}@{names[number]}" for row, number in zip(place, stack, strict=True)],
        "rlnMicrographName": [f"Micrographs/mic_{number + 1:05d}.mrc" for number in micrograph],
        "rlnOpticsGroup": micrograph % settings.n_optics_groups + 1,
        **_defocus(settings, micrograph, rng),
        "rlnPhaseShift": np.zeros(count),
        "rlnAngleRot": rng.uniform(-180, 180, count),
        # Uniform on the sphere: the cosine of the tilt is uniform.
        "rlnAngleTilt": np.degrees(np.arccos(rng.uniform(-1, 1, count))),
        "rlnAnglePsi": rng.uniform(-180, 180, count),
        "rlnOriginXAngst": shifts[0] * pixel_size_angs,
        "rlnOriginYAngst": shifts[1] * pixel_size_angs,
        "rlnClassNumber": np.ones(count, dtype=int),
        "rlnRandomSubset": rng.permutation(count) % 2 + 1,
    }
    return DrawnParticles(_optics(settings, box, pixel_size_angs), pd.DataFrame(columns).round(DECIMALS), names)


def _defocus(settings: SimulationSettings, micrograph: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Defocus and astigmatism of each micrograph, with some spread of height among its particles; U is not below V."""
    micrographs, count = micrograph.max() + 1, len(micrograph)
    mean = rng.uniform(settings.defocus_min_angs, settings.defocus_max_angs, micrographs)[micrograph]
    mean = mean + rng.normal(0, DEFOCUS_SPREAD_ANGS, count)
    difference = rng.uniform(0, settings.astigmatism_angs, micrographs)[micrograph]
    angle = rng.uniform(-90, 90, micrographs)[micrograph]
    return {
        "rlnDefocusU": mean + difference / 2,
        "rlnDefocusV": mean - difference / 2,
        "rlnDefocusAngle": angle,
    }


def _optics(settings: SimulationSettings, box: int, pixel_size_angs: float) -> pd.DataFrame:
    groups = range(1, settings.n_optics_groups + 1)
    microscopes = [MICROSCOPES[(group - 1) % len(MICROSCOPES)] for group in groups]
    voltage, aberration, contrast = zip(*microscopes, strict=True)
    return pd.DataFrame(
        {
            "rlnOpticsGroupName": [f"opticsGroup{group}" for group in groups],
            "rlnOpticsGroup": list(groups),
            "rlnVoltage": voltage,
            "rlnSphericalAberration": aberration,
            "rlnAmplitudeContrast": contrast,
            "rlnImagePixelSize": pixel_size_angs,
            "rlnImageSize": box,
            "rlnImageDimensionality": 2,
        }
    )
