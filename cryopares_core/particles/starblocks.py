"""The particles and optics of a STAR file as text, before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryopares_core.errors import UserError
from cryopares_core.particles.startext import StarTable, read_tables
from cryopares_core.particles.text import to_floats

SHOWN = 5  # problems of one kind that are named one by one
SUBTOMOGRAM_COLUMNS = (
    "rlnTomoName",
    "rlnTomoParticleName",
    "rlnCtfImage",
    "rlnCoordinateZ",
)
# Programs also write these for single particles, as zeros.
DEPTH_COLUMNS = ("rlnOriginZAngst", "rlnOriginZ")


@dataclass
class StarBlocks:
    """The particle rows and optics rows of one file, all as text, and the problems found so far.

    `lines` `(n,)` is the line of each particle in the file, from 1; `cut_off` `(n,)` tells which rows have fewer values than
    columns.
    """

    path: Path
    particles: pd.DataFrame
    optics: pd.DataFrame | None
    lines: np.ndarray
    cut_off: np.ndarray
    problems: list[str]

    def at(self, row: int) -> str:
        """Where a row stands, for messages: its number from 1, and the line of the file."""
        return f"{self.path}, row {row + 1} (line {self.lines[row]})"

    def complain(self, rows: np.ndarray, what: str | Sequence[str], remedy: str, column: str | None = None) -> None:
        """Note a problem of several rows: the first few one by one, the others as a number.

        `what` is one text, or one for each of the first `SHOWN` rows.
        """
        for place, row in enumerate(rows[:SHOWN]):
            value = f", {column} = {self.particles[column].iloc[row]!r}" if column in self.particles else ""
            self.problems.append(f"{self.at(int(row))}{value}: {what if isinstance(what, str) else what[place]}. {remedy}")
        if len(rows) > SHOWN:
            kind = f"{what}" if isinstance(what, str) else f"{column or 'value'}, as above"
            self.problems.append(f"{self.path}: the same in {len(rows) - SHOWN:,} more rows ({kind}).")


def read_blocks(path: Path) -> StarBlocks:
    """Read a STAR file and find its particles.

    Raises
    ------
    UserError : it cannot be read, is no STAR file, or holds no single particles.
    """
    tables = read_tables(path)
    particles = _particle_table(path, tables)
    optics = _only_one(path, [table for table in tables if table.name == "optics" and table.columns])
    problems = _rows_too_long(path, [particles, *([optics] if optics else [])])
    if optics and (optics.counts < len(optics.columns)).any():
        row = int(np.argmax(optics.counts < len(optics.columns)))
        problems.append(
            f"{path}, data_optics row {row + 1} (line {optics.lines[row]}): the row ends after {optics.counts[row]} of "
            f"{len(optics.columns)} columns. Mend it."
        )
    if problems:
        raise UserError(problems)
    cut_off = particles.counts < len(particles.columns)
    result = StarBlocks(path, _as_frame(particles), _as_frame(optics) if optics else None, particles.lines, cut_off, [])
    _tell_rows_cut_off(result, particles.counts)
    return result


def _particle_table(path: Path, tables: list[StarTable]) -> StarTable:
    """The table of particles: that of data_particles, else the first with pictures."""
    tomographic = [name for table in tables for name in table.columns if _is_tomographic(table, name)]
    if tomographic:
        raise UserError(
            f"{path}: holds sub-tomograms or tilt series ({tomographic[0]}), not single particles. Give single particles."
        )
    named = [table for table in tables if "rlnImageName" in table.columns]
    if not named:
        found = ", ".join(f"data_{table.name}" for table in tables if table.columns) or "none with rows"
        missing = f"{path}: no block has the column rlnImageName (blocks: {found}). Give a file of particles."
        raise UserError([missing, *_rows_too_long(path, tables)])
    chosen = "particles" if any(table.name == "particles" for table in named) else named[0].name
    table = _only_one(path, [table for table in named if table.name == chosen])
    if table is None or not len(table.lines):
        raise UserError(f"{path}: there are no particles in it (0 rows). Give a file with particles.")
    return table


def _only_one(path: Path, tables: list[StarTable]) -> StarTable | None:
    """The table of some name, or None; two of them cannot both be right."""
    if len(tables) > 1:
        raise UserError(f"{path}: more than one table data_{tables[0].name}. Give them as files of their own, or join their rows.")
    for table in tables:
        twice = [name for name, count in Counter(table.columns).items() if count > 1]
        if twice:
            raise UserError(f"{path}, data_{table.name}: more than one column {', '.join(twice)}. Take the wrong one out.")
    return tables[0] if tables else None


def _is_tomographic(table: StarTable, name: str) -> bool:
    if name in DEPTH_COLUMNS:
        return bool((to_floats(pd.Series(table.column(table.columns.index(name)))) != 0).any())
    return name in SUBTOMOGRAM_COLUMNS


def _rows_too_long(path: Path, tables: list[StarTable]) -> list[str]:
    """Rows with more values than columns: nobody can know which of them is too many."""
    problems = []
    for table in tables:
        width, counts, lines = len(table.columns), table.counts, table.lines
        rows = np.flatnonzero(counts > width)
        problems += [
            f"{path}, data_{table.name}: the file's rows do not fit its columns (row {row + 1}, line {lines[row]}: {counts[row]} "
            f"values for {width} columns). Write it again, or mend that line."
            for row in rows[:SHOWN]
        ]
        if len(rows) > SHOWN:
            problems.append(f"{path}, data_{table.name}: {len(rows) - SHOWN:,} more rows have too many values.")
    return problems


def _as_frame(table: StarTable) -> pd.DataFrame:
    return pd.DataFrame({name: table.take_column(place) for place, name in enumerate(table.columns)}, copy=False)


def _tell_rows_cut_off(blocks: StarBlocks, counts: np.ndarray) -> None:
    """Rows with fewer values than columns, as at the end of a file that was cut off."""
    rows = np.flatnonzero(blocks.cut_off)
    width = blocks.particles.shape[1]
    what = [f"the row ends after {count} of {width} columns; the file may have been cut off" for count in counts[rows[:SHOWN]]]
    blocks.complain(rows, what, "Copy or write it again.")
