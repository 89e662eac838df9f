"""Particles whose poses are wanted: as `read_particles` reads them, but neither angles nor half sets need to be there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.particles import columns
from cryopares_core.particles.images import check_declared_size, check_stacks, find_pictures
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
    group = columns.optics_row(blocks)
    pixel_size = columns.pixel_sizes(blocks, group)
    pictures = find_pictures(blocks, particles_dir, check_files=True)
    sides = check_stacks(blocks, pictures, pixel_size, remarks)
    check_declared_size(blocks, columns.of_optics(blocks, "rlnImageSize", group) if group is not None else None, sides)
    ctf = columns.ctf_parameters(blocks, group, needs_ctf)
    shifts = columns.shifts(blocks, pixel_size, remarks)
    half_set, drawn = _half_sets(blocks, needs_halves)
    if blocks.problems:
        raise UserError([problem.replace(columns.CTF_REMEDY, CTF_REMEDY) for problem in blocks.problems])
    table = ParticleTable(
        stack_paths=pictures.stack_paths,
        stack_id=pictures.stack_id,
        slice_id=pictures.slice_id,
        eulers_deg=np.zeros((len(blocks.particles), 3)),
        shifts_angs=shifts,
        ctf=ctf,
        pixel_size_angs=pixel_size,
        image_size_px=sides.astype(np.int32),
        half_set=half_set,
        particles=blocks.particles,
        optics=blocks.optics if group is not None else None,
    )
    return NewParticles(table, remarks, drawn, any(name in blocks.particles for name in ORIGINS))


def _half_sets(blocks: StarBlocks, needed: bool) -> tuple[np.ndarray, bool]:
    """Half sets `(n,)`, and whether they were drawn; those become a column of the particles."""
    if not needed:
        return np.ones(len(blocks.particles), dtype=np.int8), False
    drawn = SUBSET not in blocks.particles
    return columns.half_sets(blocks, True, []), drawn
