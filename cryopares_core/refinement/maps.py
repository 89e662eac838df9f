"""The map that each half set is refined against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryopares_core.refinement.slices import SliceTable
from cryopares_core.refinement.start import RefineSettings


@dataclass(frozen=True)
class Reference:
    """A cubic map, `(n, n, n)` `[z, y, x]`, and its pixel size."""

    volume: np.ndarray
    pixel_size_angs: float


class HalfMaps:
    """The transforms of the maps of the half sets that there are.

    Parameters
    ----------
    references : by half set; may be the same
    half_set : `(n,)` of all particles
    every : makes the map of a half set without particles as well

    Raises UserError where they do not fit in memory.
    """

    def __init__(
        self,
        references: Mapping[int, Reference],
        half_set: np.ndarray,
        settings: RefineSettings,
        device: torch.device | str = "cpu",
        every: bool = False,
    ):
        self._half_set, self._device = half_set, device
        present = {half: references[half] for half in ((1, 2) if every else np.unique(half_set).tolist())}
        made = {
            id(one): SliceTable(one.volume, one.pixel_size_angs, settings.resolution_angs, settings.mask_radius_angs, device)
            for one in present.values()
        }
        self.all = list(made.values())
        self._halves = {slices: [half for half, one in present.items() if made[id(one)] is slices] for slices in self.all}

    @property
    def finest_angs(self) -> float:
        """The resolution that all of them reach."""
        return max(slices.finest_angs for slices in self.all)

    def swapped(self) -> HalfMaps:
        """The same transforms, each for the particles of the other half set."""
        other = copy(self)
        other._halves = {slices: [3 - half for half in halves] for slices, halves in self._halves.items()}
        return other

    def of(self, indices: np.ndarray) -> Iterator[tuple[SliceTable, Tensor]]:
        """Each map of particles `indices` `(b,)`, with the places of its particles among them."""
        for slices, halves in self._halves.items():
            rows = np.flatnonzero(np.isin(self._half_set[indices], halves))
            if len(rows):
                yield slices, torch.from_numpy(rows).to(self._device)
