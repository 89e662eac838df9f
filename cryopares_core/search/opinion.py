"""What a network says of images, as a search takes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cryopares_core.search.candidates import CandidateStage
from cryopares_core.search.prior import FLAT, NetworkPrior


@dataclass(frozen=True)
class NetworkOpinion:
    """What a network says of b images.

    Attributes
    ----------
    log_density : `(b, points)` on the grid, up to a constant for each image
    prior : what it is worth beside the map
    stage : how much of the grid to try where the density is highest; None tries none of it first
    """

    log_density: Tensor
    prior: NetworkPrior = FLAT
    stage: CandidateStage | None = None

    def part(self, rows: Tensor) -> NetworkOpinion:
        """Some of the images."""
        return NetworkOpinion(self.log_density[rows], self.prior, self.stage)
