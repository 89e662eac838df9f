"""What is told while protocols run: one line that is written over on a terminal, lines now and then elsewhere."""

import glob
import json
import os
import re
import time
from typing import Any, Dict, TextIO

EVERY = 30.0  # seconds between lines where they are not written over
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
COMMAND = ("export ", "/", ". ")  # command lines, which Scipion logs too
TIME_STAMP = re.compile(r"^(\S+ )?\d{4}-\d\d-\d\d[ T][\d:,.]+\s+")  # date and time that Scipion puts before its own lines


class Progress:
    """Writes to a stream; what a line replaces depends on whether it is a terminal."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.live = stream.isatty()
        self._last = ("", 0.0)
        self._open = False

    def tell(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\x1b[K" if self._open else "") + text + "\n")
        self.stream.flush()
        self._open = False
        self._last = (text, time.monotonic())

    def update(self, text: str) -> None:
        """A line that tells how far a protocol is."""
        if self.live:
            width = os.get_terminal_size(self.stream.fileno()).columns - 1
            self.stream.write("\r\x1b[K" + text[:width])
            self.stream.flush()
            self._open = True
        elif time.monotonic() - self._last[1] >= EVERY:
            self.tell(text)


def describe(run: Any) -> str:
    """How far a run is: state, steps, time, and the last that it said."""
    elapsed = str(run.getElapsedTime()).split(".")[0]
    steps = f", {run.stepsDone} of {run.numberOfSteps} steps" if run.numberOfSteps else ""
    said = last_metrics(run) or last_line(run)
    return f"{run.getObjLabel()}: {run.getStatus()}{steps}, {elapsed}" + (f"; {said}" if said else "")


def last_metrics(run: Any) -> str:
    """The last epoch of a CryoPARES training, in words; empty where there is none yet."""
    files = glob.glob(os.path.join(run._getExtraPath("training"), "version_*", "**", "metrics.jsonl"), recursive=True)
    if not files:
        return ""
    newest = max(files, key=os.path.getmtime)
    for line in reversed(_tail(newest)):
        try:
            return f"{os.path.basename(os.path.dirname(newest))}: {_epoch(json.loads(line))}"
        except (ValueError, KeyError):
            continue  # half written
    return ""


def _epoch(metrics: Dict[str, Any]) -> str:
    mean, median = metrics.get("val_geo_degs", float("nan")), metrics.get("val_median_geo_degs", float("nan"))
    return f"epoch {metrics['epoch']}, error of held-out particles {mean:.1f}°, median {median:.1f}°"


def last_line(run: Any) -> str:
    """The last that a run wrote into its log."""
    lines = [TIME_STAMP.sub("", line) for line in _tail(run.getStdoutLog())]
    said = [line for line in lines if not line.startswith(COMMAND)]
    return said[-1] if said else ""


def _tail(path: str, size: int = 4096) -> list:
    """The last lines of a file, without colours and without what was written over."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - size))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [COLOURS.sub("", line).rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n")]
    return [line for line in lines if line]
