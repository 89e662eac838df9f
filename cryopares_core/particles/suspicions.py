"""What is allowed but hardly meant: told as warnings before training."""

from __future__ import annotations

import numpy as np

from cryopares_core.particles.table import ParticleTable


def suspicions(table: ParticleTable) -> list[str]:
    """Warnings about duplicates, pixel sizes that differ, and poses that cannot be right."""
    return _duplicates(table) + _pixel_sizes(table) + _poses(table)


def _duplicates(table: ParticleTable) -> list[str]:
    pictures = table.stack_id.astype(np.int64) << 32 | table.slice_id
    _, first, count = np.unique(pictures, return_index=True, return_counts=True)
    repeated = first[count > 1]
    if not len(repeated):
        return []
    name = table.particles["rlnImageName"].iloc[int(repeated[0])]
    return [
        f"Pictures that stand in more than one row: {len(repeated):,} (first: {name}). All rows are used; the same "
        "picture may then be in training and validation, which makes errors look smaller. Take the repeated rows out."
    ]


def _pixel_sizes(table: ParticleTable) -> list[str]:
    sizes = np.unique(table.pixel_size_angs)
    if len(sizes) == 1:
        return []
    shown = ", ".join(f"{size:g}" for size in sizes)
    return [f"The particles have several pixel sizes ({shown} Å): all are brought to one sampling, the coarsest if none is given."]


def _poses(table: ParticleTable) -> list[str]:
    if len(table) < 10:
        return []
    if np.ptp(table.eulers_deg, axis=0).max() < 1e-3:
        return ["All particles have the same angles: these are not poses. Give particles after a 3D refinement."]
    return []
