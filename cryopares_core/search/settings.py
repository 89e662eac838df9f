"""How to search."""

from __future__ import annotations

from dataclasses import dataclass

ORDER = 3
MIN_RESOLUTION_ANGS = 8.0
DETAIL_SHARE = 1.2  # of the way that the edge of the particle moves between points
SHIFT_STEP_SHARE = 0.28  # of the resolution
POLISH_ANGS = 12.0  # or finer, for small particles
POLISH_SHARE = 0.75  # of the resolution of the grid


@dataclass(frozen=True)
class SearchSettings:
    """What a search looks at.

    Attributes
    ----------
    symmetry : point group of the maps
    mask_radius_angs : of the particle; None is the largest ball in the box
    shift_search_angs : shifts are searched within this radius about the known ones; 0 where they are known
    use_ctf : False for images that are CTF-corrected or have no CTF
    polish_angs : resolution limit of the final steps
    n_peaks : poses of each image that are followed
    order : HEALPix order of the grid
    """

    symmetry: str = "C1"
    mask_radius_angs: float | None = None
    shift_search_angs: float = 0.0
    use_ctf: bool = True
    polish_angs: float = POLISH_ANGS
    n_peaks: int = 4
    order: int = ORDER


def grid_resolution_angs(radius_angs: float, spacing_rad: float) -> float:
    """The resolution at which neighbouring points of the grid still see the same detail."""
    return max(MIN_RESOLUTION_ANGS, DETAIL_SHARE * radius_angs * spacing_rad)


def polish_resolution_angs(settings: SearchSettings, radius_angs: float, spacing_rad: float) -> float:
    """The resolution of the final steps: finer than the grid's, which small particles see in more detail."""
    return min(settings.polish_angs, POLISH_SHARE * grid_resolution_angs(radius_angs, spacing_rad))
