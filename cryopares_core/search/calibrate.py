"""What a search learns from some of the images before it begins: noise, signal, and which part of the grid to try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.refinement.calibration import Calibration
from cryopares_core.refinement.pictures import Block, Spectra
from cryopares_core.search.candidates import CandidateStage, learn_stage
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.judge import MapVerdict, judge_map
from cryopares_core.search.results import SearchedPoses

N_IMAGES, N_IMAGES_WITH_SHIFTS = 400, 128  # of each box and pixel size
N_JUDGES_WITH_SHIFTS = 64
ROUNDS = 2


def sample_of(search: PoseSearch) -> np.ndarray:
    """The particles `(m,)` of the table that a search learns from, spread over it."""
    return search.source.some(N_IMAGES if len(search.offsets) == 1 else N_IMAGES_WITH_SHIFTS)


class SearchCalibration:
    """Learns from a sample.

    Parameters
    ----------
    indices : `(m,)` of the table
    shifts_angs : `(n, 2)` known origins of all particles of the table

    Raises
    ------
    UserError : an image cannot be read, or none can be used
    """

    def __init__(self, search: PoseSearch, indices: np.ndarray, shifts_angs: Tensor):
        self.search, self.indices = search, indices
        self.shifts = shifts_angs[indices].float().to(search.device)
        self.blocks: Sequence[Block] = [block for block in search.source.blocks(indices) if len(block)]
        if not self.blocks:
            raise UserError(
                "All images of the sample are constant or hold impossible values (NaN, infinite, huge). Extract the "
                "particles again."
            )

    def learn_weights(self) -> None:
        """Noise and signal at each frequency, in two rounds: poses by the weights so far, then weights from these poses."""
        calibration = Calibration(self.search.source, self.search.maps, self.blocks)
        poses, shifts = torch.eye(3).repeat(len(self.indices), 1, 1), self.shifts.cpu().clone()
        for _ in range(ROUNDS):
            for rows, found in self.searched():
                poses[rows], shifts[rows] = found.poses[:, 0].cpu(), found.shifts_angs[:, 0].cpu()
            self.search.weights = calibration.weights(poses, shifts)

    def searched(self) -> Iterator[tuple[Tensor, SearchedPoses]]:
        """The poses of the usable images by the map alone, and their places in the sample, block by block."""
        for rows, block, spectra in self._spectra():
            yield rows, self.search(spectra, block.indices, self.shifts[rows])

    def judge(self) -> MapVerdict:
        """Whether the images show the map at all. The weights must be known."""
        members = np.ones(len(self.indices), dtype=bool)
        if len(self.search.offsets) > 1:
            members[N_JUDGES_WITH_SHIFTS:] = False
        sample = ((block.indices, self.shifts[rows], spectra) for rows, block, spectra in self._spectra(members))
        return judge_map(self.search, sample)

    def learn_low_stage(self) -> None:
        """Whether a look at low resolution tells where to search for rotation and shift."""
        ranking = [
            self.search.scores(spectra, block.indices, self.shifts[rows], at_low_resolution=True)
            for rows, block, spectra in self._spectra()
        ]
        self.search.low_stage = learn_stage(self.search.grid, self.log_likelihood[0], torch.cat(ranking))

    def stage(self, log_net: Tensor, members: np.ndarray) -> CandidateStage | None:
        """How much of the grid to try first, with the densities of one network.

        Parameters
        ----------
        log_net : `(m, points)` of the whole sample
        members : `(m,)` which of them the network is asked about
        """
        likelihood, rows = self.log_likelihood
        asked = torch.from_numpy(members)[rows]
        if not asked.any():
            return None
        return learn_stage(self.search.grid, likelihood[asked], log_net[rows[asked]].to(likelihood))

    @cached_property
    def log_likelihood(self) -> tuple[Tensor, Tensor]:
        """f squared on the whole grid, `(k, points)`, of the usable images, and their places in the sample. The weights must be
        known.
        """
        values, places = [], []
        for rows, block, spectra in self._spectra():
            values.append(self.search.scores(spectra, block.indices, self.shifts[rows]).clamp(min=0).square())
            places.append(rows)
        return torch.cat(values), torch.cat(places)

    def _spectra(self, members: np.ndarray | None = None) -> Iterator[tuple[Tensor, Block, Spectra]]:
        """Places in the sample, images and spectra, block by block."""
        for block in self.blocks:
            chosen = np.arange(len(block)) if members is None else np.flatnonzero(members[block.rows])
            if len(chosen):
                part = Block(block.rows[chosen], block.indices[chosen], block.pictures[chosen])
                yield torch.from_numpy(part.rows), part, self.search.source.spectra(part)
