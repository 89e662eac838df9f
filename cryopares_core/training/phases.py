"""Where the time of a run goes."""

from __future__ import annotations

import datetime
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryopares_core.files import write_text
from cryopares_core.plots.timing import FILE, read_starts


class Phases:
    """Seconds by phase, in the order in which phases first began. A phase inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = datetime.datetime.now().astimezone().isoformat()
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

    def write(self, run_dir: Path) -> None:
        """Keep the figures in the run's folder, beside those of its earlier starts."""
        self._settle()
        own = {
            "started": self.started,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "peak_memory_gb": round(peak_memory_gb(), 3),
            "gpu_memory_gb": round(gpu_memory_gb(), 3),
        }
        earlier = [start for start in read_starts(run_dir) if start.get("started") != self.started]
        write_text(run_dir / FILE, json.dumps({"starts": [*earlier, own]}, indent=1) + "\n")


def peak_memory_gb() -> float:
    """The most main memory that this process has held, in units of 10^9 bytes."""
    try:
        # getrusage's figure would count the program that started this one, before it was replaced.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    except (OSError, StopIteration):  # not Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def gpu_memory_gb() -> float:
    """The most GPU memory that this process has held in tensors, in units of 10^9 bytes; 0 where it has used none."""
    torch = sys.modules.get("torch")  # importing it here would not count as start-up
    return torch.cuda.max_memory_allocated() / 1e9 if torch is not None and torch.cuda.is_initialized() else 0.0
