"""Where the time of a run goes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Phases:
    """Seconds by phase, in the order in which phases first began. A phase inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time within the `with` block for a phase."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        self._settle()
        self.seconds.setdefault(name, 0.0)
        self._running.append(name)

    def end(self) -> None:
        self._settle()
        self._running.pop()

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def table(self) -> str:
        """One line a phase with its seconds and share, the sum, and the peak memory."""
        total = sum(self.seconds.values()) or 1.0
        rows = [f"  {name:<24}{value:>9.1f} s{value / total:>7.0%}" for name, value in self.seconds.items()]
        return "\n".join(["Where the time went", *rows, f"  {'all':<24}{total:>9.1f} s", f"Peak memory {peak_memory_gb():.1f} GB"])


def peak_memory_gb() -> float:
    """The most main memory that this process has held, in units of 10^9 bytes."""
    try:
        # getrusage's figure would count the program that started this one, before it was replaced.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    except (OSError, StopIteration):  # not Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
