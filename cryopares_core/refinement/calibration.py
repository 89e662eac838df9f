"""What refinement learns from some particles before it begins: how strong noise and signal are, and whether the map is theirs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.refinement.ascent import portions
from cryopares_core.refinement.fit import Observed, fit, models
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.maps import HalfMaps
from cryopares_core.refinement.pictures import Block, PictureSource, Spectra
from cryopares_core.refinement.slices import SliceTable
from cryopares_core.refinement.weights import ENOUGH_PICTURES, SURE_DEVIATIONS, ShellSums, ShellWeights

logger = logging.getLogger(__name__)
Weights = dict[Frequencies, ShellWeights]


@dataclass(frozen=True)
class Compared:
    """Pictures, a map, and the poses `(b, 3, 3)` and shifts `(b, 2)` in Å to compare them at."""

    slices: SliceTable
    spectra: Spectra
    poses: Tensor
    shifts: Tensor


class Calibration:
    """Compares blocks of pictures with their maps."""

    def __init__(self, source: PictureSource, maps: HalfMaps, blocks: Sequence[Block]):
        self.source, self.maps, self.blocks = source, maps, blocks

    @torch.no_grad()
    def weights(self, poses: Tensor, shifts: Tensor) -> Weights:
        """From pictures and what the maps show at poses `(n, 3, 3)` and shifts `(n, 2)`, for each kind of pictures."""
        sums = {kind: ShellSums(kind) for kind in self.source.kinds}
        for one in self._compared(poses, shifts):
            kind, values = one.spectra.frequencies, one.spectra.values
            sums[kind].add(values, models(one.slices, Observed(values, one.spectra.ctf, kind.xy), one.poses, one.shifts))
        return {kind: of_kind.weights() for kind, of_kind in sums.items()}

    def judge(self, weights: Weights, poses: Tensor, shifts: Tensor) -> None:
        """Warn where the pictures, if there are enough, do not fit the maps better at their own poses than at each other's.

        Raises
        ------
        UserError : they show the negative of the map
        """
        score, other = (self._scores(weights, tried, shifts) for tried in (poses, poses.roll(1, dims=0)))
        if len(score) < ENOUGH_PICTURES:  # the mean of a few is anything
            return
        if _deviations(score) < -SURE_DEVIATIONS:
            raise UserError(
                "The pictures show the negative of the map at their poses: one of them has its contrast inverted. Particles "
                "must be white on dark, and the map's density positive."
            )
        if _deviations(score - other) < SURE_DEVIATIONS:
            logger.warning(
                "The pictures fit the map at their own poses no better than at each other's: it may be another molecule, or its "
                "mirror image, its pixel size may be wrong, or the poses are. Refined poses will mean nothing then."
            )

    @torch.no_grad()
    def _scores(self, weights: Weights, poses: Tensor, shifts: Tensor) -> Tensor:
        """How the pictures fit, as `Fit.score` has it."""
        found = []
        for one in self._compared(poses, shifts):
            seen = weights[one.spectra.frequencies].observed(one.spectra)
            parts = portions(seen, seen.xy.shape[1])
            found += [fit(one.slices, part, one.poses[rows], one.shifts[rows]).score for rows, part in parts]
        return torch.cat(found)

    def _compared(self, poses: Tensor, shifts: Tensor) -> Iterator[Compared]:
        for block in self.blocks:
            spectra = self.source.spectra(block)
            for slices, rows in self.maps.of(block.indices):
                places = block.rows[rows.numpy(force=True)]
                where = (values[places].to(self.source.device) for values in (poses, shifts))
                yield Compared(slices, Spectra(spectra.frequencies, spectra.values[rows], spectra.ctf[rows]), *where)


def _deviations(values: Tensor) -> float:
    """How many standard errors the mean is above 0."""
    return float(values.mean() / (values.std(correction=0) / math.sqrt(len(values))).clamp(min=1e-12))
