"""The learning rate: up at first, halved on plateaus, down to nearly nothing at the end."""

from __future__ import annotations

from typing import Any

import torch

WARM_UP_STEPS = 20
COOL_DOWN_SHARE = 0.25


class Schedule:
    """Sets an optimizer's learning rate before each step.

    Parameters
    ----------
    optimizer : its present rate is where plateaus start from
    total_steps : of the whole training
    patience : epochs without a lower validation loss before the rate is halved
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int, patience: int):
        self.optimizer, self.total_steps = optimizer, max(1, total_steps)
        self.rate = float(optimizer.param_groups[0]["lr"])
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)

    def apply(self, step: int) -> float:
        """Set and return the rate for the step after `step` others."""
        rate = self.rate * self._ramp(step)
        self._set(rate)
        return rate

    def end_epoch(self, val_loss: float) -> None:
        """The rule of plateaus, at the end of an epoch."""
        self._set(self.rate)  # the rule changes what stands in the optimizer
        self.plateau.step(val_loss)
        self.rate = float(self.optimizer.param_groups[0]["lr"])

    def _ramp(self, step: int) -> float:
        """Up over the first steps, and down to nearly zero over the last quarter, where the error falls fastest."""
        warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
        cool_down = min(1.0, max(0.01, (self.total_steps - step) / (COOL_DOWN_SHARE * self.total_steps)))
        return warm_up * cool_down

    def _set(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """All that a run that goes on has to know."""
        return {"rate": self.rate, "plateau": self.plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rate = state["rate"]
        self.plateau.load_state_dict(state["plateau"])
