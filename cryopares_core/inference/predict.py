"""Poses of particles, and how sure they are, as a stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.inference.confidence import Judge, Judged
from cryopares_core.inference.consensus import NO_AGREEMENT_DEGS, disagreement_degs
from cryopares_core.inference.models import TrainedModel
from cryopares_core.inference.policy import Assignment
from cryopares_core.inference.stream import PreparedBatch, prepared_stream
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.model.prediction import PosePredictor
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.order import file_order
from cryopares_core.particles.table import ParticleTable
from cryopares_core.training.phases import Phases

Progress = Callable[[int, int], None]
MOST_ON_PROCESSOR = 32  # pictures: more at once are no faster there, and take their memory


@dataclass(frozen=True)
class PredictionSettings:
    """How poses are found: pictures at a time, modes of each, and whether quarter turns are averaged over."""

    batch_size: int = 64
    top_k: int = 1
    quarter_turns: bool = False


@dataclass(frozen=True)
class Found:
    """What was found for some particles.

    Attributes
    ----------
    eulers_degs : `(m, k, 3)` poses, the surest first
    shifts_angs : `(m, k, 2)` origins x, y
    confidence : `(m, k)` probability that each is within 5 degrees of the truth; 0 where there are fewer, and for broken pictures
    near : `(m, k)` probability that each is within 15 degrees, so that refinement finds the truth
    stated : `(m, k)` the confidence before calibration, of the network or of the posterior
    fit : `(m, k)` correlation with the map; 0 where there is no map
    broken : `(m,)` whether the picture could not be used
    network_mass : `(m,)` the network's probability within 5 degrees of the surest pose of a search; nan where it was not asked
    disagreement_degs : `(m,)` distance of the surest pose from that by the other half set's model; 180 where there is none
    """

    eulers_degs: np.ndarray
    shifts_angs: np.ndarray
    confidence: np.ndarray
    near: np.ndarray
    stated: np.ndarray
    fit: np.ndarray
    broken: np.ndarray
    disagreement_degs: np.ndarray
    network_mass: np.ndarray


def predict_poses(
    network: PoseNetwork,
    card: ModelCard,
    table: ParticleTable,
    device: torch.device,
    batch_size: int = 64,
    quarter_turns: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """The most probable pose of each particle, `(n, 3, 3)` float32 on the CPU, in the order of the table.

    The pictures are prepared as they were for training, from the model's card: the poses in the table are not used, but its shifts
    centre the particles. `quarter_turns` averages over the four turns of each picture, at four times the cost.

    Raises
    ------
    UserError : pictures are constant or hold values that are not finite, or a stack cannot be read
    """
    predict = pose_predictor([network], card, device, PredictionSettings(batch_size, 1, quarter_turns))
    poses, done, broken = torch.zeros(len(table), 3, 3), 0, list[np.ndarray]()
    for batch in prepared_stream(table, file_order(table), card.preparation, device, batch_size):
        broken.append(batch.broken)
        if len(batch.indices):
            poses[batch.indices] = predict(batch.images).poses[:, 0].cpu()
        done += len(batch.indices) + len(batch.broken)
        if progress:
            progress(done, len(table))
    names = table.picture_names(np.concatenate(broken)) if broken else []
    if names:
        raise UserError(
            [f"Picture {name}: it is constant, or has impossible pixels (NaN, infinite, huge). Take it out." for name in names]
        )
    return poses


def pose_predictor(
    networks: Sequence[PoseNetwork], card: ModelCard, device: torch.device, settings: PredictionSettings
) -> PosePredictor:
    """With the model's own mask, symmetry and arithmetic."""
    bfloat16 = uses_bfloat16(card.config["train"]["precision"], device)
    return PosePredictor(networks, card.mask(), card.symmetry, device, bfloat16, settings.top_k, settings.quarter_turns)


class ShardPredictor:
    """Finds the poses of some particles of a table.

    Parameters
    ----------
    assignment : which models find which particles
    models : by name
    device : where the work is done
    phases : told where the time goes
    """

    def __init__(
        self,
        table: ParticleTable,
        assignment: Assignment,
        models: dict[str, TrainedModel],
        device: torch.device,
        settings: PredictionSettings,
        phases: Phases,
    ):
        self.table, self.assignment, self.device, self.settings, self.phases = table, assignment, device, settings, phases
        at_work = {number: [models[name] for name in assignment.teams[number]] for number in assignment.at_work}
        self.card = next(iter(at_work.values()))[0].card
        self.predictors = {
            number: pose_predictor([model.network for model in team], self.card, device, settings)
            for number, team in at_work.items()
        }
        self.judges = {number: Judge(team, device) for number, team in at_work.items()}
        self.at_once = settings.batch_size if device.type == "cuda" else min(settings.batch_size, MOST_ON_PROCESSOR)

    def __call__(self, order: np.ndarray, progress: Callable[[int], None]) -> Found:
        """The particles of `order`, which is part of the table's file order. `progress` is told how many are done."""
        found, done = nothing_found(self.table, order, self.settings.top_k), 0
        by_number = np.argsort(order)
        # So many that each team gets about as many as it wants.
        count = self.settings.batch_size * len(self.judges)
        stream = prepared_stream(self.table, order, self.card.preparation, self.device, count, self.phases)
        for batch in self._timed(stream):
            places = by_number[np.searchsorted(order, batch.indices, sorter=by_number)]
            for number, rows in self._shared_out(batch):
                judged = self._of_team(number, batch, rows)
                for field in fields(Judged):
                    getattr(found, field.name)[places[rows]] = getattr(judged, field.name)
                if self.assignment.compares:
                    found.disagreement_degs[places[rows]] = self._disagreement(number, batch, rows, judged)
            found.broken[places] = False
            done += len(batch.indices) + len(batch.broken)
            progress(done)
        return found

    def _timed(self, stream: Iterator[PreparedBatch]) -> Iterator[PreparedBatch]:
        while True:
            with self.phases("preparing pictures"):
                batch = next(stream, None)
            if batch is None:
                return
            yield batch

    def _shared_out(self, batch: PreparedBatch) -> Iterator[tuple[int, np.ndarray]]:
        """Each team with rows of the batch, no more at a time than the network is to have."""
        for number in self.judges:
            rows = np.flatnonzero(self.assignment.team[batch.indices] == number)
            for first in range(0, len(rows), self.at_once):
                yield number, rows[first : first + self.at_once]

    def _of_team(self, number: int, batch: PreparedBatch, rows: np.ndarray) -> Judged:
        places = torch.from_numpy(rows).to(self.device)
        pictures = batch.images if len(rows) == len(batch.images) else batch.images[places]
        with self.phases("network"):
            modes = self.predictors[number](pictures)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        with self.phases("confidence"):
            return self.judges[number](modes, pictures, batch.ctf.chosen(places, self.device))

    def _disagreement(self, number: int, batch: PreparedBatch, rows: np.ndarray, judged: Judged) -> np.ndarray:
        """Of a team's surest poses and those that the other team finds, `(b,)` in degrees."""
        other = self._of_team(self.assignment.other(number), batch, rows)
        return disagreement_degs(judged.eulers_degs[:, 0], other.eulers_degs[:, 0], self.card.symmetry)


def nothing_found(table: ParticleTable, order: np.ndarray, top_k: int) -> Found:
    """Before anything is found: as of broken images, with the shifts of the table."""
    count = len(order)
    confidence, near, stated, fit = (np.zeros((count, top_k), np.float32) for _ in range(4))
    shifts = np.repeat(table.shifts_angs[order, None], top_k, axis=1)
    eulers, broken = np.zeros((count, top_k, 3), np.float32), np.ones(count, dtype=bool)
    apart, unknown = np.full(count, NO_AGREEMENT_DEGS, np.float32), np.full(count, np.nan, np.float32)
    return Found(eulers, shifts, confidence, near, stated, fit, broken, apart, unknown)
