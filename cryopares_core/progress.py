"""Progress of long loops, with the time left; and sizes in words."""

import logging
import time
from typing import Callable

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


class Countdown:
    """Called with (done, total); tells one line every few seconds and one at the end.

    Parameters
    ----------
    verb, things : `Prepared`, `pictures`
    tell : takes a line; by default the log

    >>> Countdown("Prepared", "pictures")(10, 100)
    """

    def __init__(self, verb: str, things: str, tell: Callable[[str], None] = logger.info):
        self.verb, self.things, self.tell = verb, things, tell
        self.started = self.last = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done < total and now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        elapsed = max(1e-6, now - self.started)
        left = f", {format_seconds(elapsed * (total - done) / max(1, done))} left" if done < total else ""
        self.tell(f"{self.verb} {done:,} of {total:,} {self.things}, {done / elapsed:.0f} a second{left}")


def format_seconds(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def size_text(n_bytes: float) -> str:
    """`640 MB` or `3.2 GB`."""
    if n_bytes < 1e6:
        return "under 1 MB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"
