"""The blocks of a particle STAR file as text, before anything is made of them."""

from __future__ import annotations

import linecache
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from cryopares_core.errors import UserError

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

    `name` is that of the particles' block; `cut_off` `(n,)` tells which rows have fewer values than columns.
    """

    path: Path
    name: str
    particles: pd.DataFrame
    optics: pd.DataFrame | None
    cut_off: np.ndarray
    problems: list[str]

    @cached_property
    def _lines(self) -> np.ndarray:
        """The line of each row, from 1. Looked up only for messages; empty where the lines don't agree with the rows."""
        found, inside = list[int](), False
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n"), start=1):
            line = line.strip()
            if line.startswith("data_"):
                inside = line[5:] == self.name
                found = [] if inside else found
            elif inside and line and line != "loop_" and line[0] not in "_#":
                found.append(number)
        return np.array(found if len(found) == len(self.particles) else [])

    def at(self, row: int) -> str:
        """Where a row stands, for messages: its number from 1, and the line of the file."""
        return f"{self.path}, row {row + 1}" + (f" (line {self._lines[row]})" if len(self._lines) else "")

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
    text = _read_text(path)
    columns = sorted(set(re.findall(r"^\s*_(\S+)", text, re.MULTILINE)))
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=columns)
    except Exception as error:  # the parser's own errors are of many kinds; all mean the same to the user
        reason = _row_too_long(text) or " ".join(str(error).split())
        raise UserError(f"{path}: the file's rows do not fit its columns ({reason}). Write it again, or mend that line.") from error
    finally:
        linecache.clearcache()  # the parser leaves it full after an error, and would read the old text of a mended file
    frames = {name: _as_frame(block) for name, block in blocks.items() if block is not None}
    name = _particle_block(path, frames)
    result = StarBlocks(path, name, frames[name], frames.get("optics"), (frames[name].iloc[:, -1] == "").to_numpy(), [])
    _tell_rows_cut_off(result)
    return result


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Check --particles_star_fname.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a STAR file: it is not text. Give RELION's particles.star or run_data.star.") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty. Give RELION's particles.star or run_data.star.")
    if not re.search(r"^\s*data_", text, re.MULTILINE):
        raise UserError(f"{path}: not a STAR file: no data_ block. Give RELION's particles.star or run_data.star.")
    return text


def _row_too_long(text: str) -> str:
    """Which row of a table has more values than the table has columns; the parser counts lines from the table's start."""
    columns, row = 0, 0
    for number, line in enumerate(text.split("\n"), start=1):
        values = line.partition("#")[0].split()
        if values and values[0].startswith(("data_", "loop_")):
            columns = 0
        elif values and values[0].startswith("_"):
            columns, row = columns + 1, 0
        elif values and columns:
            row += 1
            if len(values) > columns and not {'"', "'"} & set(line):
                return f"row {row}, line {number}: {len(values)} values for {columns} columns"
    return ""


def _as_frame(block: object) -> pd.DataFrame:
    """All values as text: the parser takes `nan` away even from columns of text, and leaves "" where a row ends early."""
    frame = block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
    return frame.fillna("nan").reset_index(drop=True)


def _particle_block(path: Path, frames: dict[str, pd.DataFrame]) -> str:
    """The name of the block of particles."""
    named = {name: frame for name, frame in frames.items() if "rlnImageName" in frame.columns}
    tomographic = [column for frame in frames.values() for column in frame.columns if _is_tomographic(frame, column)]
    if tomographic:
        raise UserError(
            f"{path}: holds sub-tomograms or tilt series ({tomographic[0]}), not single particles. Give single particles."
        )
    if not named:
        found = ", ".join(f"data_{name}" for name in frames) or "none with rows"
        raise UserError(f"{path}: no block has the column rlnImageName (blocks: {found}). Give a file of particles.")
    name = "particles" if "particles" in named else next(iter(named))
    if not len(named[name]):
        raise UserError(f"{path}: there are no particles in it (0 rows). Give a file with particles.")
    _refuse_repeated_columns(path, frames, name)
    return name


def _is_tomographic(frame: pd.DataFrame, column: str) -> bool:
    if column in DEPTH_COLUMNS:
        depths = frame.loc[:, [column]].apply(pd.to_numeric, errors="coerce")
        return bool((depths != 0).any(axis=None))
    return column in SUBTOMOGRAM_COLUMNS


def _refuse_repeated_columns(path: Path, frames: dict[str, pd.DataFrame], name: str) -> None:
    for block in {name, "optics"} & frames.keys():
        columns = frames[block].columns
        if columns.has_duplicates:
            twice = ", ".join(columns[columns.duplicated()].unique())
            raise UserError(f"{path}, data_{block}: more than one column {twice}. Take the wrong one out.")


def _tell_rows_cut_off(blocks: StarBlocks) -> None:
    """Rows with fewer values than columns, as at the end of a file that was cut off."""
    rows = np.flatnonzero(blocks.cut_off)
    empty = (blocks.particles.iloc[rows[:SHOWN]] == "").to_numpy()
    counts = [len(row) - (int(np.argmin(row[::-1])) if not row.all() else len(row)) for row in empty]
    what = [f"the row ends after {count} of {empty.shape[1]} columns; the file may have been cut off" for count in counts]
    blocks.complain(rows, what, "Copy or write it again.")
