"""What a table of particles tells by itself: half sets, duplicates, views, CTFs."""

from __future__ import annotations

from dataclasses import fields

import healpy
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cryopares_core.config.ordinary import close_across_halves, ctf_doubts, half_set_doubts, shared_pictures, shared_places
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.table import ParticleTable

VIEW_ORDER = 2  # 192 patches of the sphere, 15 degrees apart
LOOKED_AT = 20_000
FEW_VIEWS = 0.5  # of the patches that as many random poses would show
ENOUGH_FOR_SHARES = 2000
PREFERRED = 0.5  # of the particles, in the densest tenth of the patches


def table_doubts(table: ParticleTable, split_halfs: bool) -> list[str]:
    """All that is suspicious in a table that was read without errors, one sentence each."""
    found = _half_sets(table) if split_halfs else []
    ctf = {field.name: getattr(table.ctf, field.name) for field in fields(table.ctf)}
    return found + (ctf_doubts(ctf, lambda row: name_of(table, row)) if (table.ctf.voltage_kv > 0).all() else [])


def name_of(table: ParticleTable, row: int) -> str:
    """A particle as the STAR file names it."""
    return str(table.particles["rlnImageName"].iloc[int(row)])


def _half_sets(table: ParticleTable) -> list[str]:
    sizes = tuple(int((table.half_set == half).sum()) for half in (1, 2))
    both = pictures_in_both(table)
    found = half_set_doubts((sizes[0], sizes[1])) + shared_pictures(len(both), name_of(table, both[0]) if len(both) else "")
    places = _particles_in_both(table)
    if len(places) and not len(both):  # the same picture lies in the same place
        found += shared_places(len(places), sizes[0], name_of(table, places[0]))
    return found


def pictures_in_both(table: ParticleTable) -> np.ndarray:
    """Rows of half set 1 whose picture stands in half set 2 as well."""
    picture = table.stack_id.astype(np.int64) << 32 | table.slice_id
    first = np.flatnonzero(table.half_set == 1)
    return first[np.isin(picture[first], picture[table.half_set == 2])]


def _particles_in_both(table: ParticleTable) -> np.ndarray:
    rows = table.particles
    if not {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"} <= set(rows):
        return np.zeros(0, dtype=int)
    picked = np.stack([pd.to_numeric(rows[f"rlnCoordinate{axis}"], errors="coerce").to_numpy(float) for axis in "XY"], axis=1)
    centre = picked * _micrograph_pixel_angs(table)[:, None] - table.shifts_angs
    return close_across_halves(pd.factorize(rows["rlnMicrographName"])[0], centre, table.half_set)


def _micrograph_pixel_angs(table: ParticleTable) -> np.ndarray:
    """`(n,)` Å. Where it is not known the pictures' own, which is no smaller: places then seem further apart than they are."""
    optics = table.optics
    names = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
    name = next((name for name in names if optics is not None and name in optics), None)
    if optics is None or name is None:
        return table.pixel_size_angs
    known = dict(zip(pd.to_numeric(optics["rlnOpticsGroup"]), pd.to_numeric(optics[name], errors="coerce"), strict=True))
    sizes = pd.to_numeric(table.particles["rlnOpticsGroup"]).map(known).to_numpy(float)
    return np.where(sizes > 0, sizes, table.pixel_size_angs)


def view_doubts(eulers_degs: np.ndarray, group: Tensor) -> list[str]:
    """Whether the poses `(n, 3)` look from few sides, all mates under the point group's matrices `(g, 3, 3)` counted."""
    chosen = eulers_degs[np.linspace(0, len(eulers_degs) - 1, min(len(eulers_degs), LOOKED_AT)).astype(int)]
    count = np.sort(_by_patch(chosen, group))[::-1]
    patches, views = len(count), len(chosen) * len(group)
    expected = patches * (1 - (1 - 1 / patches) ** views)
    if (count > 0).sum() < FEW_VIEWS * expected:
        return [
            f"The poses look from few sides: {(count > 0).sum()} of {patches} patches of the sphere are seen, where as many random "
            f"ones would show about {expected:.0f}. Other views are not learned. Check that the refinement searched all angles."
        ]
    share = count[: patches // 10].sum() / count.sum()
    if len(chosen) < ENOUGH_FOR_SHARES or share < PREFERRED:
        return []
    return [
        f"{share:.0%} of the particles are seen from a tenth of all directions: errors will be larger for the others. Add "
        "particles of rare views where you can."
    ]


def _by_patch(eulers_degs: np.ndarray, group: Tensor) -> np.ndarray:
    """Particles by HEALPix patch. A pose `A` looks along the last row of A, its mates along those of `A g^T`."""
    directions = euler_degs_to_matrix(torch.from_numpy(eulers_degs).double())[:, 2]
    mates = torch.einsum("gij,nj->gni", group.double(), directions).reshape(-1, 3).numpy()
    pixels = healpy.vec2pix(2**VIEW_ORDER, *mates.T)
    return np.bincount(pixels, minlength=12 * 4**VIEW_ORDER)
