"""Particles whose poses are wanted: as `read_particles` reads them, but neither angles nor half sets need to be there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.particles import columns
from cryopares_core.particles.star import make_table
from cryopares_core.particles.starblocks import StarBlocks, read_blocks
from cryopares_core.particles.table import ParticleTable

SUBSET = "rlnRandomSubset"
ORIGINS = ("rlnOriginXAngst", "rlnOriginX")
CTF_REMEDY = "Estimate the CTF, or use a model that was trained without it."


@dataclass(frozen=True)
class NewParticles:
    """A table whose angles mean nothing, and what is suspicious about it.

    `drawn` tells whether its half sets were drawn at random now, `centred` whether the file has origins.
    """

    table: ParticleTable
    remarks: list[str]
    drawn: bool
    centred: bool


def read_new_particles(path: Path, particles_dir: Path | None, needs_ctf: bool, needs_halves: bool) -> NewParticles:
    """Read a STAR file and check every particle.

    Parameters
    ----------
    particles_dir : folder that relative picture names start from; then the STAR file's folder and the folders above it are tried
    needs_ctf : refuse particles without CTF parameters
    needs_halves : take half sets from the file, or draw them where there are none; else all particles are in half 1

    Raises
    ------
    UserError : with every problem of the file
    """
    blocks, remarks = read_blocks(path), list[str]()
    drawn = needs_halves and SUBSET not in blocks.particles

    def half_sets(found: StarBlocks) -> np.ndarray:
        return columns.half_sets(found, True, []) if needs_halves else np.ones(len(found.particles), dtype=np.int8)

    try:
        table = make_table(blocks, particles_dir, needs_ctf, _no_angles, half_sets, remarks)
    except UserError as error:
        raise UserError([problem.replace(columns.CTF_REMEDY, CTF_REMEDY) for problem in error.problems]) from None
    return NewParticles(table, remarks, drawn, any(name in blocks.particles for name in ORIGINS))


def _no_angles(blocks: StarBlocks) -> np.ndarray:
    return np.zeros((len(blocks.particles), 3))
