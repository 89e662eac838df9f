"""What a check has found: lines that say OK, Warning or Error, by subject."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cryopares_core.errors import UserError
from cryopares_core.files import write_text

OK, WARNING, ERROR = "OK", "Warning", "Error"
SETTINGS, PARTICLES, PICTURES, POSES, COST = "Settings and files", "Particles", "Pictures", "Poses", "Memory and time"
WIDTH, MARGIN = 130, 11
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line."""

    subject: str
    level: str
    text: str


@dataclass
class Findings:
    """All lines in the order in which they were found, and the figures behind them by name."""

    lines: list[Finding] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def ok(self, subject: str, text: str) -> None:
        """As it should be."""
        self._add(subject, OK, [text])

    def warn(self, subject: str, texts: Iterable[str]) -> None:
        """Allowed, but hardly meant."""
        self._add(subject, WARNING, texts)

    def refuse(self, subject: str, texts: Iterable[str]) -> None:
        """Training would refuse it."""
        self._add(subject, ERROR, texts)

    def _add(self, subject: str, level: str, texts: Iterable[str]) -> None:
        new = (Finding(subject, level, " ".join(text.split())) for text in texts)
        self.lines += [line for line in new if line not in self.lines]

    def attempt(self, subject: str, look: Callable[[], T]) -> T | None:
        """What `look` gives; None where it raises a UserError, whose problems are kept. Warnings that it logs are kept too."""
        with _taken() as warnings:
            try:
                return look()
            except UserError as error:
                self.refuse(subject, error.problems)
                return None
            finally:
                self.warn(subject, warnings)

    def count(self, level: str) -> int:
        """How many lines there are of a level."""
        return sum(line.level == level for line in self.lines)

    def text(self) -> str:
        """The lines under their subjects, for a terminal."""
        rows = []
        for subject in (SETTINGS, PARTICLES, PICTURES, POSES, COST):
            lines = [line for line in self.lines if line.subject == subject]
            rows += [f"\n{subject}"] * bool(lines) + [_wrapped(line) for line in lines]
        return "\n".join(rows)

    def write_json(self, path: Path) -> None:
        """The same for programs, all or nothing."""
        content = {
            "errors": self.count(ERROR),
            "warnings": self.count(WARNING),
            "findings": [asdict(line) for line in self.lines],
            "measured": self.measured,
        }
        write_text(path, json.dumps(content, indent=2) + "\n")


def _wrapped(line: Finding) -> str:
    start = f"  {line.level:<{MARGIN - 2}}"
    return textwrap.fill(
        line.text, WIDTH, initial_indent=start, subsequent_indent=" " * MARGIN, break_long_words=False, break_on_hyphens=False
    )


@contextmanager
def _taken() -> Iterator[list[str]]:
    """The warnings of our loggers within the `with` block, which do not reach the terminal."""
    ours, texts = logging.getLogger("cryopares_core"), list[str]()
    taker = logging.Handler(logging.WARNING)
    taker.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    others = list(ours.handlers)
    for handler in others:
        handler.addFilter(_below_warning)
    ours.addHandler(taker)
    try:
        yield texts
    finally:
        ours.removeHandler(taker)
        for handler in others:
            handler.removeFilter(_below_warning)


def _below_warning(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING
