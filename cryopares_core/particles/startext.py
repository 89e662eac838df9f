"""The grammar of STAR files as RELION and others write them: blocks of pairs and of rows, all cells kept as text.

A line at a time defines what a file means; blocks of rows that are plain (no comments, no short rows) are cut into columns
all at once (`starrows`), with the same result. Comments and quotes count only where a word begins, as in RELION: `C#1` and
`Sam's` are words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.particles.starrows import plain_rows
from cryopares_core.particles.text import TextArray, pack

CHUNK_BYTES = 1 << 20  # what stays in the processor's cache is cut fastest
WORD = re.compile(rb"""(['"])(.*?)\1(?!\S)|(['"#])|(\S+)""")
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
OUTSIDE, HEAD, NAMES, ROWS = range(4)  # before the first block, before its table, among its columns, among its rows
WHAT_TO_GIVE = "Give RELION's particles.star or run_data.star."


class _BadLine(ValueError):
    """A line that means nothing."""


@dataclass
class StarTable:
    """One table of a file: the pairs of a data block, as a single row, or the rows of a loop.

    `lines` `(n,)` is where each row stands, from 1, `counts` `(n,)` how many values it has, of which those beyond the columns
    are dropped.
    """

    name: str
    columns: list[str] = field(default_factory=list)
    parts: list[list[np.ndarray]] = field(default_factory=list)
    line_parts: list[np.ndarray] = field(default_factory=list)
    count_parts: list[np.ndarray] = field(default_factory=list)

    @property
    def lines(self) -> np.ndarray:
        return np.concatenate(self.line_parts) if self.line_parts else np.zeros(0, np.int64)

    @property
    def counts(self) -> np.ndarray:
        return np.concatenate(self.count_parts) if self.count_parts else np.zeros(0, np.int64)

    def column(self, place: int) -> TextArray:
        """The cells of a column; a row that is too short has "" there."""
        return TextArray.joined([part[place] for part in self.parts])

    def take_column(self, place: int) -> TextArray:
        """The cells of a column, which the table then has no longer: a large file is in memory only once."""
        cells = self.column(place)
        for part in self.parts:
            part[place] = np.zeros(0, "S1")
        return cells

    def add(self, cells: list[np.ndarray], lines: np.ndarray, counts: np.ndarray) -> None:
        self.parts.append(cells)
        self.line_parts.append(lines)
        self.count_parts.append(counts)


def read_tables(path: Path, chunk_bytes: int = CHUNK_BYTES) -> list[StarTable]:
    """All tables of a STAR file, in order.

    Raises
    ------
    UserError : the file cannot be read, is empty, is not text or has no data block.
    """
    reader = _Reader()
    try:
        for chunk in _chunks(path, chunk_bytes):
            reader.take(chunk)
        reader.keep_rows()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Check --particles_star_fname.") from error
    except _BadLine as error:
        raise UserError(f"{path}, line {reader.number}: {error}") from error
    if reader.is_blank:
        raise UserError(f"{path}: the file is empty. {WHAT_TO_GIVE}")
    if not reader.tables:
        raise UserError(f"{path}: not a STAR file: no data_ block. {WHAT_TO_GIVE}")
    return reader.tables


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    """The file in pieces of whole lines, without the mark that some editors put before a text."""
    with open(path, "rb") as file:
        first = file.read(3)
        carry = b"" if first == b"\xef\xbb\xbf" else first
        while chunk := carry + file.read(size) + file.readline():
            carry = b""
            yield chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk


class _Reader:
    """Where in the file we are, and the tables so far."""

    def __init__(self) -> None:
        self.tables: list[StarTable] = []
        self.number = 0  # of the line read last
        self.is_blank = True
        self._stage = OUTSIDE
        self._rows: list[list[bytes]] = []
        self._lines: list[int] = []

    def take(self, chunk: bytes) -> None:
        """The next piece of the file."""
        plain = plain_rows(chunk, len(self.tables[-1].columns)) if self._stage == ROWS else None
        if plain is not None:
            cells, lines = plain
            self.tables[-1].add(cells, lines + self.number + 1, np.full(len(lines), len(cells)))
            self.number += chunk.count(b"\n")
            return
        for line in chunk.splitlines():
            self.number += 1
            self._take_line(line)
        if self._stage == ROWS:
            self.keep_rows()

    def _take_line(self, line: bytes) -> None:
        self.is_blank = self.is_blank and not line.strip()
        words = _words(line)
        if not words:
            return
        first = words[0]
        if first.startswith(b"data_") and (self._stage != ROWS or len(words) == 1):
            self._begin(first[5:].decode(), HEAD)
        elif words == [b"loop_"] and self._stage in (HEAD, ROWS):
            self._begin_loop()
        elif self._stage == NAMES and first.startswith(b"_"):
            self.tables[-1].columns.append(first[1:].decode())
        elif self._stage in (NAMES, ROWS):
            if not self.tables[-1].columns:
                raise _BadLine("a loop_ without columns. Write the file again, or mend that place.")
            self._stage = ROWS
            self._rows.append(words)
            self._lines.append(self.number)
        elif self._stage == HEAD and first.startswith(b"_"):
            self._take_pair(words)

    def _begin(self, name: str, stage: int) -> None:
        self.keep_rows()
        self.tables.append(StarTable(name))
        self._stage = stage

    def _begin_loop(self) -> None:
        """The loop of a block; if the block has a table already, a table of its own."""
        if self.tables[-1].columns:
            self._begin(self.tables[-1].name, NAMES)
        self._stage = NAMES

    def _take_pair(self, words: list[bytes]) -> None:
        if not self._rows:
            self._rows, self._lines = [[]], [self.number]
        self.tables[-1].columns.append(words[0][1:].decode())
        self._rows[0].append(b" ".join(words[1:]))

    def keep_rows(self) -> None:
        """Make columns of the rows since the last time."""
        if not self._rows:
            return
        width, counts = len(self.tables[-1].columns), np.array([len(row) for row in self._rows])
        padded = [(row + [b""] * width)[:width] for row in self._rows]
        cells = [pack(column) for column in zip(*padded, strict=True)]
        self.tables[-1].add(cells, np.array(self._lines), counts)
        self._rows, self._lines = [], []


def _words(line: bytes) -> list[bytes]:
    """The values of a line, without quotes and comment."""
    if CONTROL.search(line):
        raise _BadLine(f"not a STAR file, or a damaged one: there are control characters. {WHAT_TO_GIVE}")
    if not line.isascii():
        _check_utf8(line)
    if not (b"#" in line or b'"' in line or b"'" in line):
        return line.split()
    words = []
    for match in WORD.finditer(line):
        if match[3] == b"#":
            break
        if match[3]:
            raise _BadLine("a quotation mark is not closed. Close it, or take it out.")
        words.append(match[2] if match[1] else match[4])
    return words


def _check_utf8(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise _BadLine(f"not a STAR file, or a damaged one: it is not text (UTF-8). {WHAT_TO_GIVE}") from error
