"""The loop over epochs and steps, from wherever an earlier one was stopped to the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch

from cryopares_core.particles.batches import EpochLoader
from cryopares_core.training.checkpoints import Checkpoints
from cryopares_core.training.distribution import ready_for_all
from cryopares_core.training.metrics import MetricsFiles, Progress
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.pictures import TrainingPictures
from cryopares_core.training.plan import Plan, Stage
from cryopares_core.training.records import Validated
from cryopares_core.training.schedule import Schedule
from cryopares_core.training.seeds import seed_of
from cryopares_core.training.step import STATISTICS, TrainingStep
from cryopares_core.training.stopping import EarlyStopping, stop_requests
from cryopares_core.training.validation import shortened, summary, validate
from cryopares_core.training.watch import DivergenceGuard, Readings


@dataclass
class Place:
    """Where a training stands: epochs done, batches of the present one done, how many of them were there at the last
    validation, steps and seconds in all, and whether validation has stopped it early.
    """

    epoch: int = 0
    batch: int = 0
    validated: int = 0
    step: int = 0
    seconds: float = 0.0
    ended: bool = False


class Loop:
    """Trains one stage.

    Everything that the next step depends on is in `state`, and each step follows from it and its number alone. A run that was
    killed repeats the steps after its last checkpoint and comes to the same weights.

    Parameters
    ----------
    plan, stage : what is trained, on what
    module : what is trained
    on_best : called by the first process with the metrics and the findings of each validation that is the best so far
    """

    def __init__(self, plan: Plan, stage: Stage, module: PoseTraining, on_best: Callable[[int, dict[str, Any], Validated], None]):
        self.plan, self.stage, self.fabric, self.on_best = plan, stage, plan.fabric, on_best
        self.settings, seed = plan.config.train, seed_of(plan.config.train.seed, stage.title)
        share, limit = (self.fabric.global_rank, self.fabric.world_size), plan.arguments.overfit_batches
        self.train = EpochLoader(stage.train, plan.particles_per_batch, seed, share, limit)
        self.held_out = EpochLoader(stage.held_out, plan.arguments.batch_size, None, share, limit)
        self.network = module.network
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        self.module, self.optimizer = self.fabric.setup(ready_for_all(self.fabric, module), optimizer)
        self.curriculum = stage.curriculum.to(self.fabric.device) if stage.curriculum else None
        self.step = TrainingStep(self.fabric, self.module, self.optimizer, plan.config, self.curriculum, seed, stage.weights)
        self.steps_an_epoch = math.ceil(len(self.train) / self.settings.accumulate_grad_batches)
        self.total_steps = self.steps_an_epoch * stage.n_epochs
        self.schedule = Schedule(self.optimizer, self.total_steps, self.settings.patient_reduce_lr_plateau_n_epochs)
        self.early = EarlyStopping(self.settings.early_stopping_n_epochs)
        self.guard = DivergenceGuard(math.log(len(module.network.density.grid)), self.settings.learning_rate)
        self.checkpoints = Checkpoints(stage.folder)
        self.readings, self.latest = Readings(), dict.fromkeys(STATISTICS, 0.0)
        self.at, self.validation, self.lowest = Place(), dict[str, float](), math.inf
        self.sums, self.rates = torch.zeros(len(STATISTICS), dtype=torch.float64, device=self.fabric.device), 0.0
        self.best_now = False

    def run(self) -> None:
        """Go on to the end of the last epoch.

        Raises
        ------
        UserError : training diverged, the memory or the disk is too small
        KeyboardInterrupt : the run was stopped
        """
        if self.finished:
            return
        self.started = self.saved = time.perf_counter() - self.at.seconds
        self.saved = time.perf_counter()
        shown = self.fabric.is_global_zero
        self.files = MetricsFiles(self.stage.folder, self.at.epoch, self.at.step) if shown else None
        self.pictures = TrainingPictures(self.plan, self.stage, self.network, self.files.writer) if self.files else None
        self.progress = Progress(self.stage.title, self.stage.n_epochs, self.steps_an_epoch, self.at.step, shown)
        self.module.train()
        try:
            with stop_requests() as self.stop:
                while not self.finished:
                    self._epoch()
        finally:
            self.progress.close()
            if self.files:
                self.files.close()

    @property
    def finished(self) -> bool:
        """All epochs are done, or it gets no better."""
        return self.at.epoch >= self.stage.n_epochs or self.at.ended

    def _epoch(self) -> None:
        """What is left of an epoch."""
        with closing(self.train.epoch(self.at.epoch, self.at.batch)) as batches:
            self._validate_if_due()  # of a run that was stopped before it
            while self.at.batch < len(self.train):
                self._step(list(islice(batches, self.settings.accumulate_grad_batches)))
                self._save_if_due()
                self._validate_if_due()
        self._end_epoch()

    def _step(self, batches: list[Any]) -> None:
        place, total = self.at.step, self.total_steps
        self.rates += self.schedule.apply(place)
        noisy = self.curriculum is None or self.latest["noise"] >= 1
        found = self.step(batches, place, place / total, noisy, bool(self.stop))
        if self.curriculum is not None:
            self.curriculum.advance(found[STATISTICS.index("median_degs")], place, total)
        self.sums += found
        self.at.step, self.at.batch = place + 1, self.at.batch + len(batches)
        self._read(self.readings.push(found))
        self.progress.step()

    def _read(self, values: list[float] | None) -> None:
        """Look at the numbers of an earlier step."""
        if values is not None:
            self.latest = dict(zip(STATISTICS, values, strict=True))
            self.guard(self.latest["loss"], self.at.step)

    def _validate_if_due(self) -> None:
        """After each part of an epoch that the user chose, and after the whole."""
        every = max(1, int(len(self.train) * (self.plan.arguments.val_check_interval or 1)))
        whole = self.at.batch == len(self.train)
        if self.at.batch == self.at.validated or not (whole or self.at.batch // every > self.at.validated // every):
            return
        with self.plan.phases("validation"):
            loss, validated = validate(self.fabric, self.module, self.held_out, self._leave_validation)
        self.validation, self.at.validated = summary(loss, validated), self.at.batch
        if self.pictures:
            self.pictures.after_validation(self.at.step, validated, self.at.step == self.total_steps)
        if self.validation["val_loss"] < self.lowest:
            self.lowest, self.best_now = self.validation["val_loss"], True
            if self.fabric.is_global_zero:
                self.on_best(self.at.epoch + 1, {"step": self.at.step, **self.validation}, validated)
            if not whole:
                self._save()

    def _end_epoch(self) -> None:
        line = self._line()
        if self.curriculum is None or self.curriculum.finished:
            # Before the end of the curriculum the loss says little.
            self.schedule.end_epoch(self.validation["val_loss"])
            self.early.end_epoch(self.validation["val_loss"])
        self.at.epoch, self.at.batch, self.at.validated, self.at.ended = self.at.epoch + 1, 0, 0, self.early.wanted
        self.sums.zero_()
        self.rates = 0.0
        if self.files:
            self.files.write(line)
        self.progress.epoch(line)
        self._save()

    def _line(self) -> dict[str, Any]:
        """The metrics of the epoch that ends."""
        means = dict(zip(STATISTICS, (self.sums / self.steps_an_epoch).tolist(), strict=True))
        self.guard.check(means["loss"], self.at.step)
        values = {"loss": means["loss"], **self.validation, "geo_degs": means["geo_degs"], "lr": self.rates / self.steps_an_epoch}
        if means["noise"] < 1:
            values["noise"] = means["noise"]
        line = {name: shortened(value) for name, value in values.items()}
        return {"epoch": self.at.epoch + 1, "step": self.at.step, **line, "seconds": round(self._seconds(), 1)}

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _leave_validation(self) -> None:
        """One process alone need not end a validation before it stops: what led to it is saved."""
        if self.stop and self.fabric.world_size == 1:
            self._stop()

    def _save_if_due(self) -> None:
        """Every few minutes, and when somebody asked to stop."""
        if self.stop if self.fabric.world_size == 1 else self.latest["stop"]:
            self._stop()
        if time.perf_counter() - self.saved > 60 * self.settings.checkpoint_every_minutes:
            self._save()

    def _stop(self) -> None:
        self._save()
        self.stop.pass_on()

    def _save(self) -> None:
        """Never weights that are broken or about to be: the checkpoint before then stays."""
        waiting = self.readings.waiting()
        for values in waiting:
            self.guard.check(values[0], self.at.step)
        self.saved = time.perf_counter()
        if self.fabric.is_global_zero and not self.guard.in_doubt:
            with self.plan.phases("saving"):
                self.checkpoints.save(self.state(waiting), self.best_now)
        self.best_now = False

    def state(self, waiting: list[list[float]]) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        self.at.seconds = self._seconds()
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "learning_rate": self.settings.learning_rate,
            "curriculum": self.curriculum.state_dict() if self.curriculum else None,
            "early": self.early.state_dict(),
            "guard": self.guard.state_dict(),
            "readings": waiting,
            "latest": self.latest,
            "at": asdict(self.at),
            "validation": self.validation,
            "lowest": self.lowest,
            "sums": self.sums,
            "rates": self.rates,
            "pieces": self.step.pieces,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.schedule.rate *= self.settings.learning_rate / state["learning_rate"]  # where the user has changed it
        if self.curriculum and state["curriculum"]:
            self.curriculum.load_state_dict(state["curriculum"])
        self.early.load_state_dict(state["early"])
        self.guard.load_state_dict(state["guard"])
        self.readings.restore([[*values[:-1], 0.0] for values in state["readings"]])  # who asked it to stop was heard
        self.latest = {**state["latest"], "stop": 0.0}
        self.validation, self.lowest = state["validation"], state["lowest"]
        self.at = Place(**state["at"])
        self.at.ended &= self.early.wanted  # a run that goes on may wait for longer
        self.sums, self.rates, self.step.pieces = state["sums"].to(self.sums), state["rates"], state["pieces"]
