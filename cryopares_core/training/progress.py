"""Progress of long loops in the log, with the time left."""

from __future__ import annotations

import logging
import time

from cryopares_core.training.phases import format_seconds

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


class Countdown:
    """Called with (done, total); logs a line every few seconds and one at the end.

    >>> Countdown("Prepared", "pictures")(10, 100)
    """

    def __init__(self, verb: str, things: str):
        self.verb, self.things = verb, things
        self.started = self.last = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done < total and now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        elapsed = max(1e-6, now - self.started)
        left = f", {format_seconds(elapsed * (total - done) / max(1, done))} left" if done < total else ""
        logger.info("%s %s of %s %s, %.0f a second%s", self.verb, f"{done:,}", f"{total:,}", self.things, done / elapsed, left)
