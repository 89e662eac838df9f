"""What is allowed but hardly meant: told as warnings before training."""

from __future__ import annotations

import numpy as np

from cryopares_core.particles.table import ParticleTable

FEW_VIEWS = 0.25  # of the views that as many random poses would show
BIN_DEGS = 15.0


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
    tilt = np.radians(table.eulers_deg[:, 1])
    # Bins of equal area: uniform in rot and in cos tilt.
    n_rot, n_tilt = round(360 / BIN_DEGS), round(180 / BIN_DEGS)
    rot_bin = np.floor(table.eulers_deg[:, 0] % 360 / 360 * n_rot).astype(int)
    tilt_bin = np.minimum(((np.cos(tilt) + 1) / 2 * n_tilt).astype(int), n_tilt - 1)
    bins = n_rot * n_tilt
    seen = len(np.unique(rot_bin * n_tilt + tilt_bin))
    expected = bins * (1 - (1 - 1 / bins) ** len(table))
    if seen >= FEW_VIEWS * expected:
        return []
    return [
        f"The poses lie on few views: {seen} of {bins} patches of the sphere, where random ones would show about {expected:.0f}. "
        "Views that are not in the training set cannot be learned."
    ]
