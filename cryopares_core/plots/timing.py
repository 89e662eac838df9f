"""Where a run's time went and what memory it took, from `timing.json` and the epochs."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cryopares_core.plots.readers import read_json
from cryopares_core.plots.records import HalfRecord, RunRecord, duration_text, epoch_seconds

FILE = "timing.json"


@dataclass(frozen=True)
class Timing:
    """What all starts of a run took together.

    Attributes
    ----------
    seconds : by phase, in order
    starts : how often the run was started and came to an orderly end; one that was killed has left nothing
    peak_memory_gb, gpu_memory_gb : the most that a start held, in 10^9 bytes; that of the GPU is 0 where none was used
    """

    seconds: Dict[str, float]
    starts: int
    peak_memory_gb: float
    gpu_memory_gb: float


def read_starts(run_dir: Path) -> List[Dict[str, Any]]:
    """What each start of a run has left; what cannot be read is left out."""
    starts = read_json(run_dir / FILE).get("starts")
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def read_timing(record: RunRecord) -> Optional[Timing]:
    """None where the run has not written it yet, or it cannot be read."""
    starts = read_starts(record.folder)
    if not starts:
        return None
    seconds: Dict[str, float] = {}
    try:
        for start in starts:
            for name, value in start["seconds"].items():
                seconds[name] = seconds.get(name, 0.0) + float(value)
        memory = [max(float(start.get(name, 0.0)) for start in starts) for name in ("peak_memory_gb", "gpu_memory_gb")]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return Timing(seconds, len(starts), *memory)


def particles_per_second(half: HalfRecord) -> Optional[float]:
    """Training particles in a second of an epoch, its validation included; over the last epochs."""
    recent = epoch_seconds(half.epochs)[-5:]
    return len(recent) * half.n_train / sum(recent) if half.n_train and sum(recent) > 0 else None


def timing_html(record: RunRecord) -> str:
    """Bars of the phases and the memory; nothing where none is known."""
    timing = read_timing(record)
    if timing is None:
        return ""
    total = sum(timing.seconds.values()) or 1.0
    rows = "".join(_bar(name, value, value / total) for name, value in timing.seconds.items() if value >= 0.05)
    return f"<table class=bars><tbody>{rows}</tbody></table><p>{' '.join(_sentences(record, timing, total))}</p>"


def _bar(name: str, seconds: float, share: float) -> str:
    text = f"{seconds:.{1 if seconds < 60 else 0}f} s" if seconds < 600 else duration_text(seconds)
    bar = f"<div class=bar style='width:{max(0.3, 100 * share):.1f}%'></div>"
    return f"<tr><td>{html.escape(name)}</td><td>{text}</td><td>{share:.0%}</td><td>{bar}</td></tr>"


def _sentences(record: RunRecord, timing: Timing, total: float) -> List[str]:
    speeds = [(half.name, particles_per_second(half)) for half in record.halves.values()]
    known = [f"{name} {speed:,.0f}" for name, speed in speeds if speed]
    told: List[Any] = [f"In all {duration_text(total)}{f', in {timing.starts} starts' if timing.starts > 1 else ''}."]
    told.append(f"Particles a second in an epoch: {', '.join(known)}." if known else "")
    told.append(f"Peak memory {timing.peak_memory_gb:.1f} GB")
    told[-1] += f", on the GPU {timing.gpu_memory_gb:.1f} GB." if timing.gpu_memory_gb else "."
    return [text for text in told if text]
