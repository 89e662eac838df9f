"""Poses of new particles by the posterior of network and map, or by the map alone, shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import matrix_to_euler_degs
from cryopares_core.inference.confidence import PosteriorConfidence
from cryopares_core.inference.consensus import disagreement_degs
from cryopares_core.inference.job import Job
from cryopares_core.inference.predict import Found, PredictionSettings, nothing_found, pose_predictor
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.inference.verdicts import report_verdict
from cryopares_core.particles.order import file_order
from cryopares_core.refinement.maps import Reference
from cryopares_core.search.calibrate import SearchCalibration, sample_of
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.network import PosteriorPredictor
from cryopares_core.search.prior import FLAT
from cryopares_core.search.results import SearchedPoses
from cryopares_core.search.settings import SearchSettings

logger = logging.getLogger(__name__)
N_KEPT = 3  # poses of each particle, or more with top_k: refinement starts from all likely ones
SHIFT_SEARCH_ANGS = 20.0  # where the file has no origins
Progress = Callable[[int], None]


def search_settings(job: Job) -> SearchSettings:
    """How to search the particles of a job."""
    wanted, kept = job.arguments.shift_search_angs, max(N_KEPT, job.arguments.top_k)
    known = 0.0 if job.particles.centred else SHIFT_SEARCH_ANGS
    return SearchSettings(
        symmetry=job.symmetry,
        mask_radius_angs=job.mask_radius_angs,
        shift_search_angs=known if wanted is None else wanted,
        use_ctf=bool(job.particles.table.ctf.voltage_kv.min() > 0),
        n_peaks=max(SearchSettings.n_peaks, kept),
    )


class PosteriorSearch:
    """Finds the poses of some particles of a job.

    Parameters
    ----------
    references : the map of each half set
    uses_network : False lets the map alone decide

    Raises
    ------
    UserError : the maps do not fit in memory, the images show the negative of the map, or an image cannot be read
    """

    def __init__(self, job: Job, references: Mapping[int, Reference], uses_network: bool):
        self.job, self.device = job, job.device
        self.compares = job.arguments.asks_consensus
        self.n_kept = max(N_KEPT, job.arguments.top_k)
        self.shifts = torch.from_numpy(job.particles.table.shifts_angs).float()
        with job.phases("search: preparation"):
            self.search = PoseSearch(job.particles.table, references, search_settings(job), job.device, self.compares)
            sample = sample_of(self.search)
            calibration = SearchCalibration(self.search, sample, self.shifts)
            calibration.learn_weights()
            if len(self.search.offsets) > 1:
                calibration.learn_low_stage()
            if job.place.rank == 0:
                report_verdict(calibration.judge())
            self.search.dispersion = self._dispersion()
            self.predictors = self._predictors() if uses_network else {}
            if uses_network and len(self.search.offsets) > 1:
                self._learn_stages(calibration)
            if self.compares:
                self._prepare_comparison()
        teams = self._teams() if uses_network else ()
        self.confidence = {team: PosteriorConfidence([job.models[name] for name in names]) for team, names in teams}
        self.of_map = PosteriorConfidence([])

    def _dispersion(self) -> float:
        """What the models learned of it, on average; 1 without a calibrated model."""
        known = [model.calibration.prior.dispersion for model in self.job.models.values() if model.calibration is not None]
        return float(np.mean(known)) if known else 1.0

    def _teams(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        for team in self.job.assignment.at_work:
            yield team, self.job.assignment.teams[team]

    def _predictors(self) -> dict[int, PosteriorPredictor]:
        arguments, found = self.job.arguments, {}
        settings = PredictionSettings(arguments.batch_size, 1, arguments.quarter_turns)
        for team, names in self._teams():
            models = [self.job.models[name] for name in names]
            predict = pose_predictor([model.network for model in models], models[0].card, self.device, settings)
            calibration = models[0].calibration
            found[team] = PosteriorPredictor(predict, self.search, FLAT if calibration is None else calibration.prior)
        return found

    def _prepare_comparison(self) -> None:
        """A second pose of each particle, by the networks and the map of the other half set."""
        self.swapped = self.search.swapped()
        self.others = {team: one.on(self.swapped) for team, one in self.predictors.items()}

    def _learn_stages(self, calibration: SearchCalibration) -> None:
        """Where each team's density says to look first."""
        sample, teams = calibration.indices, self.job.assignment.team[calibration.indices]
        log_net = torch.zeros(len(sample), len(self.search.grid))
        place = {particle: number for number, particle in enumerate(sample.tolist())}
        usable = np.zeros(len(sample), dtype=bool)
        for indices, images, _ in self._prepared(sample):
            rows = np.array([place[particle] for particle in indices.tolist()])
            usable[rows] = True
            for team, predictor in self.predictors.items():
                mine = np.flatnonzero(teams[rows] == team)
                if len(mine):
                    log_net[rows[mine]] = predictor.log_densities(images[torch.from_numpy(mine).to(self.device)]).cpu()
        for team, predictor in self.predictors.items():
            predictor.stage = calibration.stage(log_net, usable & (teams == team))
            logger.debug("Team %d: %s, at low resolution: %s", team, predictor.stage, self.search.low_stage)

    def _prepared(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Particles `(b,)`, their prepared images, and their images as they came, batch by batch."""
        table, card = self.job.particles.table, self.job.card
        place_in_files = np.argsort(file_order(table))
        order = indices[np.argsort(place_in_files[indices])]
        for batch in prepared_stream(table, order, card.preparation, self.device, self.job.arguments.batch_size, self.job.phases):
            if len(batch.indices):
                yield batch.indices, batch.images, batch.raw

    def __call__(self, order: np.ndarray, progress: Progress) -> Found:
        """The particles of `order`. `progress` is told how many are done."""
        found, done = nothing_found(self.job.particles.table, order, self.n_kept), 0
        by_number = np.argsort(order)
        for indices, rows in self._by_network(order, found, by_number) if self.predictors else self._by_map(order, found):
            found.broken[rows] = False
            done += len(indices)
            progress(done)
        return found

    def _by_network(self, order: np.ndarray, found: Found, by_number: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for indices, images, raw in self._prepared(order):
            rows = by_number[np.searchsorted(order, indices, sorter=by_number)]
            for team, predictor in self.predictors.items():
                mine = np.flatnonzero(self.job.assignment.team[indices] == team)
                if len(mine):
                    some = torch.from_numpy(mine).to(self.device)
                    with self.job.phases("network and search"):
                        spectra = self.search.source.spectra_of(indices[mine], raw[some])
                        shifts = self.shifts[indices[mine]].to(self.device)
                        asked = images[some], spectra, indices[mine], shifts
                        posterior = predictor(*asked)
                        if self.compares:
                            other = self.others[self.job.assignment.other(team)](*asked)
                            self._compare(found, rows[mine], posterior.found, other.found)
                    self._write(found, rows[mine], posterior.found, posterior.network_mass, self.confidence[team])
            yield indices, rows

    def _by_map(self, order: np.ndarray, found: Found) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in self.search.source.blocks(order):
            if len(block):
                with self.job.phases("search"):
                    shifts = self.shifts[block.indices].to(self.device)
                    asked = self.search.source.spectra(block), block.indices, shifts
                    poses = self.search(*asked)
                    if self.compares:
                        self._compare(found, block.rows, poses, self.swapped(*asked))
                self._write(found, block.rows, poses, None, self.of_map)
                yield block.indices, block.rows

    def _compare(self, found: Found, rows: np.ndarray, own: SearchedPoses, other: SearchedPoses) -> None:
        """Write how far the likeliest poses by both half sets are apart."""
        first, second = (matrix_to_euler_degs(poses.poses[:, 0].double()).numpy(force=True) for poses in (own, other))
        found.disagreement_degs[rows] = disagreement_degs(first, second, self.job.symmetry)

    def _write(
        self, found: Found, rows: np.ndarray, poses: SearchedPoses, network_mass: Tensor | None, judge: PosteriorConfidence
    ) -> None:
        kept = slice(None, self.n_kept)
        eulers = matrix_to_euler_degs(poses.poses[:, kept].double()).numpy(force=True)
        mass, fit = (values[:, kept].double().numpy(force=True) for values in (poses.mass, poses.correlation))
        network = None if network_mass is None else network_mass[:, kept].double().numpy(force=True)
        found.eulers_degs[rows], found.shifts_angs[rows] = eulers, poses.shifts_angs[:, kept].numpy(force=True)
        found.confidence[rows], found.near[rows] = judge(mass, eulers, fit, network)
        found.stated[rows], found.fit[rows] = mass, fit
        if network is not None:
            found.network_mass[rows] = network[:, 0]
