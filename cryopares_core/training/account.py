"""What a run leaves for a person to read: its warnings, and pictures and a report at its end, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryopares_core.files import write_text
from cryopares_core.plots.records import read_run
from cryopares_core.plots.report import write_report
from cryopares_core.training.phases import Phases


class KeptWarnings(logging.Handler):
    """Keeps the warnings of our loggers, and writes them to `warnings.txt` of the run's folder as soon as there is one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.path: Path | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(" ".join(record.getMessage().split()))
        self._write()

    def write_to(self, run_dir: Path) -> None:
        """The folder is there now."""
        self.path = run_dir / "warnings.txt"
        self.path.unlink(missing_ok=True)  # a run that goes on has warned of what it read once more
        self._write()

    def _write(self) -> None:
        if self.path and self.texts:
            write_text(self.path, "".join(text + "\n" for text in self.texts))


@contextmanager
def kept_warnings() -> Iterator[KeptWarnings]:
    """Keeps all warnings within the `with` block."""
    ours, kept = logging.getLogger("cryopares_core"), KeptWarnings()
    ours.addHandler(kept)
    try:
        yield kept
    finally:
        ours.removeHandler(kept)


@contextmanager
def reported(run_dir: Path, phases: Phases) -> Iterator[None]:
    """A run that is stopped or fails in the `with` block gets its report too, once an epoch has ended."""
    try:
        yield
    except BaseException:
        if any(half.epochs or half.simulation for half in read_run(run_dir).halves.values()):
            with suppress(OSError):  # the disk may be full, and why the run ended is what the user must hear
                phases.write(run_dir)
                write_report(run_dir)
        raise
