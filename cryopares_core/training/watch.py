"""Looking at the numbers of each step without waiting for them."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from cryopares_core.errors import UserError

STEPS_LATE = 2
MEMORY = 0.98  # of the running mean of losses, a step
LEAST_STEPS = 50
MARGIN_NATS = 2.0


class Readings:
    """Small tensors of each step, read as numbers `STEPS_LATE` steps later, when a GPU has long made them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, Any]] = deque()

    def push(self, values: Tensor) -> list[float] | None:
        """Take those of a step, and return those that are due, if there are."""
        self._waiting.append(_on_its_way(values))
        return _arrived(self._waiting.popleft()) if len(self._waiting) > STEPS_LATE else None

    def waiting(self) -> list[list[float]]:
        """Those that are not due yet, oldest first; waits for them."""
        return [_arrived(entry) for entry in self._waiting]

    def restore(self, values: list[list[float]]) -> None:
        """Put back what `waiting` gave."""
        self._waiting = deque((torch.tensor(of_one, dtype=torch.float64), None) for of_one in values)


def _on_its_way(values: Tensor) -> tuple[Tensor, Any]:
    if values.device.type != "cuda":
        return values, None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event


def _arrived(entry: tuple[Tensor, Any]) -> list[float]:
    values, event = entry
    if event is not None:
        event.synchronize()
    return [float(value) for value in values]


class Diverged(UserError):
    """The same in all processes, so that one of them tells of it."""


class DivergenceGuard:
    """Ends a training whose loss is not a number, or stays above that of a network that knows nothing.

    Parameters
    ----------
    chance : the loss of a uniform density
    learning_rate : what the user set
    """

    def __init__(self, chance: float, learning_rate: float):
        self.chance, self.learning_rate = chance, learning_rate
        self.steps, self.mean, self.first = 0, 0.0, 0.0

    def __call__(self, loss: float, step: int) -> None:
        """Look at the loss of step `step`. Raises Diverged."""
        self.check(loss, step)
        self.steps += 1
        share = max(1 - MEMORY, 1 / self.steps)
        self.mean += share * (loss - self.mean)
        if self.steps == 1:
            self.first = loss
        if self.steps >= LEAST_STEPS and self.in_doubt:
            raise self._error(
                f"The loss grows: its mean is {self.mean:.1f} after {step} steps, and that of a network that knows nothing "
                f"{self.chance:.1f}"
            )

    @property
    def in_doubt(self) -> bool:
        """The loss has grown: weights of now are not worth keeping."""
        # A network that is fine-tuned on another particle may begin, before its first change, with worse answers than none.
        return self.mean > max(self.chance, self.first) + MARGIN_NATS

    def check(self, loss: float, step: int) -> None:
        """Whether a loss is a number. Raises Diverged."""
        if not math.isfinite(loss):
            raise self._error(f"The loss is not a number after {step} steps")

    def _error(self, what: str) -> Diverged:
        return Diverged(
            f"{what}: training has diverged. What was saved before is kept. Lower the learning rate, for example --config "
            f"train.learning_rate={self.learning_rate / 10:g}; --continue_checkpoint_dir with it goes on from the last good "
            "checkpoint."
        )

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on has to know."""
        return {"steps": self.steps, "mean": self.mean, "first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps, self.mean, self.first = state["steps"], state["mean"], state["first"]
