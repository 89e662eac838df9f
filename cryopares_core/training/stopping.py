"""Stopping when asked to: Ctrl-C, Slurm's warning, and validation that gets no better."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether somebody asked the run to stop; `pass_on` then does what the signal does elsewhere in the program."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.earlier: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def pass_on(self) -> None:
        """End the program as this signal does; in a process that got none itself, as one that is told to end."""
        handler = self.earlier.get(self.signal or signal.SIGTERM)
        if callable(handler):
            handler(self.signal or signal.SIGTERM, None)
        raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block the first signal only asks, so that a step ends well; the second one acts at once."""
    request = StopRequest()

    def on_signal(number: int, frame: Any) -> None:
        if request:
            request.signal = number
            request.pass_on()
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread alone
        return
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup wants it
    request.earlier = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield request
    finally:
        for number, handler in request.earlier.items():
            signal.signal(number, handler)


class EarlyStopping:
    """Counts epochs without a lower validation loss.

    Parameters
    ----------
    patience : after so many of them training ends; None for never
    """

    def __init__(self, patience: int | None):
        self.patience = patience
        self.lowest, self.waited = float("inf"), 0

    @property
    def wanted(self) -> bool:
        """Whether training should end."""
        return self.patience is not None and self.waited >= self.patience

    def end_epoch(self, val_loss: float) -> None:
        """Take an epoch's validation loss."""
        self.waited = 0 if val_loss < self.lowest else self.waited + 1
        self.lowest = min(self.lowest, val_loss)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on has to know."""
        return {"lowest": self.lowest, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.lowest, self.waited = state["lowest"], state["waited"]
