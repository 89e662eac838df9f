"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path
from typing import List


def free_memory_bytes() -> float:
    """Memory that this process may still take: the machine's, or what its control groups leave (Slurm, containers)."""
    return min(_meminfo_available(), *map(_group_available, _control_groups()), float("inf"))


def _control_groups() -> List[Path]:
    """The process's own group and those above it: the limit of a Slurm job stands a few levels up."""
    root = Path("/sys/fs/cgroup")
    try:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return [root]
    path = root / own[3:].lstrip("/")
    return [path, *(parent for parent in path.parents if root in (parent, *parent.parents))]


def _group_available(group: Path) -> float:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return float("inf")
    # Pages of files that can be dropped at any time count as used, but are not.
    return limit - used + int(cached.get("inactive_file", 0))


def _meminfo_available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return float("inf")
