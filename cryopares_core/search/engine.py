"""Poses of images by the posterior of network and map: the whole grid or its likely part, then the best peaks polished."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from copy import copy

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.grids import healpix_spacing_degs
from cryopares_core.geometry.rotations import DEGREES
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.machine import exact_products
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.refinement.fit import Observed, centred
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.grid_search import shifts_within
from cryopares_core.refinement.maps import HalfMaps, Reference
from cryopares_core.refinement.pictures import PictureSource, Spectra
from cryopares_core.refinement.slices import SliceTable
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.refinement.weights import equal_weights
from cryopares_core.search.candidates import CandidateStage, background_rows, by_row, highest_rows
from cryopares_core.search.grid import SearchGrid
from cryopares_core.search.likelihood import MapLikelihood, fits_in_memory, table_bytes
from cryopares_core.search.opinion import NetworkOpinion
from cryopares_core.search.peaks import PeakFinder, Peaks
from cryopares_core.search.polish import Polisher
from cryopares_core.search.results import NEVER, SearchedPoses, nothing_found, without_twins
from cryopares_core.search.settings import SHIFT_STEP_SHARE, SearchSettings, grid_resolution_angs, polish_resolution_angs

logger = logging.getLogger(__name__)
CHUNK_IMAGES = 32  # on the whole grid at once
MIN_ORDER = 2
LOW_FACTOR = 2.0  # coarser than the search: the resolution of the first look
MARGIN = 10.0  # nats below the highest peak that a peak may be and still win after polishing


Pair = tuple[SliceTable, Frequencies]


class PoseSearch:
    """Searches the poses of the particles of one table.

    Parameters
    ----------
    references : the map of each half set, 1 and 2; may be the same
    device : where the work is done
    compares : whether `swapped` will be asked for

    Raises
    ------
    UserError : the maps' transforms or their slices do not fit in memory, or the resolution is too coarse for the images
    """

    def __init__(
        self,
        table: ParticleTable,
        references: Mapping[int, Reference],
        settings: SearchSettings,
        device: torch.device | str = "cpu",
        compares: bool = False,
    ):
        self.table, self.settings, self.device = table, settings, torch.device(device)
        polish_angs = self._polish_angs(references)
        limits = RefineSettings(resolution_angs=polish_angs, mask_radius_angs=settings.mask_radius_angs)
        self.maps = HalfMaps(references, table.half_set, limits, self.device, every=compares)
        self.source = PictureSource(table, max(polish_angs, self.maps.finest_angs), settings.use_ctf, self.device)
        group = point_group(settings.symmetry).matrices
        self.grid, self.resolution_angs = self._grid(group)
        self.find = PeakFinder(self.grid, group, settings.n_peaks, self.device)
        self.offsets = self._offsets(self.resolution_angs)
        self.low_stage: CandidateStage | None = None  # learned later
        self.dispersion = 1.0
        self._low_offsets = self._offsets(LOW_FACTOR * self.resolution_angs)
        self.background = background_rows(self.grid).to(self.device)
        self.weights = {kind: equal_weights(kind) for kind in self.source.kinds}
        pairs = [(slices, kind) for slices in self.maps.all for kind in self.source.kinds]
        self._likelihoods = {pair: self._likelihood(*pair) for pair in pairs}
        self._polishers = {
            pair: Polisher(*pair, resolution_angs=polish_angs, spacing_degs=self.grid.spacing_degs) for pair in pairs
        }

    def swapped(self) -> PoseSearch:
        """The search of each half set's images in the map of the other half set, with the present weights. It shares all tables."""
        other = copy(self)
        other.maps = self.maps.swapped()
        return other

    def _polish_angs(self, references: Mapping[int, Reference]) -> float:
        radius = self.settings.mask_radius_angs or math.inf
        boxes = (len(one.volume) * one.pixel_size_angs / 2 for one in references.values())
        return polish_resolution_angs(self.settings, min(radius, *boxes), healpix_spacing_degs(self.settings.order) / DEGREES)

    def _grid(self, group: Tensor) -> tuple[SearchGrid, float]:
        """The finest grid whose slices fit in memory, and the resolution that goes with it."""
        radius = max(slices.radius_angs for slices in self.maps.all)
        for order in range(self.settings.order, MIN_ORDER - 1, -1):
            grid = SearchGrid(order, group)
            resolution = grid_resolution_angs(radius, grid.spacing_degs / DEGREES)
            needed = sum(table_bytes(grid.n_rows, kind.count(resolution)) for kind in self.source.kinds) * len(self.maps.all)
            if fits_in_memory(needed, self.device) or order == MIN_ORDER:
                break
        if order < self.settings.order:
            logger.warning(
                "The memory is too small for a search grid of %.2g°: the search uses steps of %.2g° and detail down to %.3g Å",
                *(healpix_spacing_degs(self.settings.order), grid.spacing_degs, resolution),
            )
        return grid, resolution

    def _offsets(self, resolution_angs: float) -> Tensor:
        """The shifts to try at a resolution, `(t, 2)` in Å."""
        radius_angs = self.settings.shift_search_angs
        return (
            shifts_within(radius_angs, SHIFT_STEP_SHARE * resolution_angs).to(self.device)
            if radius_angs > 0
            else torch.zeros(1, 2, device=self.device)
        )

    def _likelihood(self, slices: SliceTable, kind: Frequencies) -> MapLikelihood:
        count = kind.count(max(self.resolution_angs, slices.finest_angs))
        return MapLikelihood(slices, kind.xy[:, :count], self.grid)

    @torch.no_grad()
    def __call__(
        self, spectra: Spectra, indices: np.ndarray, shifts_angs: Tensor, network: NetworkOpinion | None = None
    ) -> SearchedPoses:
        """The poses of some images of one kind.

        Parameters
        ----------
        spectra : of the images
        indices : `(b,)` of the table
        shifts_angs : `(b, 2)` known origins x, y
        network : what a network says of them; None lets the map alone decide
        """
        found = nothing_found(len(indices), self.settings.n_peaks, self.device)
        for slices, seen, rows in self._observed(spectra, indices):
            opinion = None if network is None else network.part(rows)
            found.set_rows(rows, self._of_map((slices, spectra.frequencies), seen, shifts_angs[rows], opinion))
        return found

    @torch.no_grad()
    def scores(self, spectra: Spectra, indices: np.ndarray, shifts_angs: Tensor, at_low_resolution: bool = False) -> Tensor:
        """f on the whole grid, `(b, points)`, at the best shift of each point; or the ranking of the stage at low resolution."""
        values = torch.empty(len(indices), len(self.grid), device=self.device)
        for slices, seen, rows in self._observed(spectra, indices):
            likelihood = self._likelihoods[slices, spectra.frequencies]
            for some in torch.arange(len(rows), device=self.device).split(CHUNK_IMAGES):
                if at_low_resolution:
                    values[rows[some]] = self._low_scores(likelihood, seen, shifts_angs[rows], some)
                    continue
                part = _low(likelihood, seen, shifts_angs[rows], some)
                values[rows[some]] = likelihood.all_scores(part, self.offsets)[0]
        return values

    def _observed(self, spectra: Spectra, indices: np.ndarray) -> Iterator[tuple[SliceTable, Observed, Tensor]]:
        seen = self.weights[spectra.frequencies].observed(spectra)
        for slices, rows in self.maps.of(indices):
            yield slices, seen.part(rows, seen.xy.shape[1]), rows

    def _of_map(self, pair: Pair, seen: Observed, shifts: Tensor, network: NetworkOpinion | None) -> SearchedPoses:
        found = nothing_found(len(seen), self.settings.n_peaks, self.device)
        for some in torch.arange(len(seen), device=self.device).split(CHUNK_IMAGES):
            opinion = None if network is None else network.part(some)
            part = seen.part(some, seen.xy.shape[1])
            found.set_rows(some, self._of_chunk(pair, part, shifts[some], opinion))
        return found

    def _of_chunk(self, pair: Pair, seen: Observed, shifts: Tensor, network: NetworkOpinion | None) -> SearchedPoses:
        density = None if network is None or network.prior.is_flat else network.prior.log_density(network.log_density)
        log_posterior, place = self._log_posterior(self._likelihoods[pair], seen, shifts, network, density)
        peaks = self.find(log_posterior)
        starts = self.find.matrices[peaks.points].unflatten(2, (3, 3))
        moved = shifts[:, None] + self.offsets[place.gather(1, peaks.points).long()]
        at_peaks = torch.zeros_like(peaks.heights) if density is None else density.gather(1, peaks.points)
        return self._polished(pair, seen, peaks, starts, moved, at_peaks)

    def _log_posterior(
        self, likelihood: MapLikelihood, seen: Observed, shifts: Tensor, network: NetworkOpinion | None, density: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Log-posterior `(b, points)`, minus infinity where nothing was tried, and the place of the best shift.

        Without a search for shifts the whole grid costs no more than choosing a part of it.
        """

        def posterior(scores: Tensor, rows: Tensor) -> Tensor:
            values = torch.where(scores > NEVER, scores.clamp(min=0).square(), NEVER)
            return values if density is None else values + density[rows]

        left = torch.arange(len(seen), device=self.device)
        values = torch.full((len(seen), len(self.grid)), NEVER, device=self.device)
        place = torch.zeros(values.shape, dtype=torch.int16, device=self.device)
        for stage, ranking in self._stages(likelihood, seen, shifts, network):
            if len(left):
                rows = highest_rows(self.grid, ranking(left), stage.n_rows)
                tried = torch.cat((rows, self.background.expand(len(left), -1)), dim=1)
                scores, place[left] = likelihood.scores_of_rows(_low(likelihood, seen, shifts, left), tried, self.offsets)
                values[left] = posterior(scores, left)
                left = left[self._gap(values[left], rows) < stage.min_gap]
        if len(left):
            scores, place[left] = likelihood.all_scores(_low(likelihood, seen, shifts, left), self.offsets)
            values[left] = posterior(scores, left)
        return values, place

    def _stages(
        self, likelihood: MapLikelihood, seen: Observed, shifts: Tensor, network: NetworkOpinion | None
    ) -> Iterator[tuple[CandidateStage, Callable[[Tensor], Tensor]]]:
        """The stages before the whole grid, each with what ranks the points for some of the images."""
        if len(self.offsets) == 1:
            return
        if network is not None and network.stage is not None:
            yield network.stage, lambda rows: network.log_density[rows]
        if self.low_stage is not None:
            yield self.low_stage, lambda rows: self._low_scores(likelihood, seen, shifts, rows)

    def _low_scores(self, likelihood: MapLikelihood, seen: Observed, shifts: Tensor, rows: Tensor) -> Tensor:
        """f on the whole grid at half the resolution and coarser shifts, `(b, points)`."""
        part = _low(likelihood, seen, shifts, rows)
        count = int((part.xy.norm(dim=0) * LOW_FACTOR * self.resolution_angs <= 1).sum())
        return likelihood.all_scores(part.part(slice(None), max(count, 1)), self._low_offsets)[0]

    def _gap(self, log_posterior: Tensor, rows: Tensor) -> Tensor:
        """By how much the best of the rows `(b, k)` is above the best of the background, `(b,)`."""
        height = by_row(self.grid, log_posterior)
        return height.gather(1, rows).amax(dim=1) - height[:, self.background].amax(dim=1)

    def _polished(self, pair: Pair, seen: Observed, peaks: Peaks, starts: Tensor, shifts: Tensor, density: Tensor) -> SearchedPoses:
        """The peaks `(b, k)` that may still win, off the grid, in order of their posterior mass."""
        row, peak = (peaks.heights > peaks.heights[:, :1] - MARGIN).nonzero(as_tuple=True)
        with exact_products():
            polished = self._polishers[pair](seen.part(row, seen.xy.shape[1]), starts[row, peak], shifts[row, peak])
            polished = polished.dispersed(self.dispersion)
        found = nothing_found(len(seen), starts.shape[1], self.device)
        found.poses[row, peak], found.shifts_angs[row, peak] = polished.poses, polished.shifts
        found.log_odds[row, peak] = polished.log_likelihood + density[row, peak] + polished.log_volume
        found.mass[row, peak] = polished.mass_within(GOOD_DEGS)
        found.correlation[row, peak] = polished.correlation
        found.spread_degs[row, peak] = polished.spread_rad * DEGREES
        found = found.sorted_by(found.log_odds)
        odds = without_twins(found.log_odds, found.poses, self.find.group, self.find.min_trace)
        found = found.sorted_by(odds - odds[:, :1])
        share = torch.softmax(found.log_odds, dim=1) * (1 - peaks.other_mass[:, None])
        found.mass.mul_(share)
        return found


def _low(likelihood: MapLikelihood, seen: Observed, shifts: Tensor, rows: Tensor) -> Observed:
    """Some images at the frequencies of the tables, their known shifts taken off."""
    part = seen.part(rows, likelihood.xy.shape[1])
    return Observed(centred(part, shifts[rows]), part.transfer, part.xy)
