"""The blocks of a particle STAR file as text, before anything is made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    "rlnOriginZAngst",
    "rlnOriginZ",
    "rlnCoordinateZ",
)


@dataclass
class StarBlocks:
    """The particle rows and optics rows of one file, all as text, and the problems found so far."""

    path: Path
    particles: pd.DataFrame
    optics: pd.DataFrame | None
    first_line: int
    problems: list[str]

    def at(self, row: int) -> str:
        """Where a row stands, for messages: its number from 1, and the line of the file."""
        return f"{self.path}, row {row + 1} (line {self.first_line + row})" if self.first_line else f"{self.path}, row {row + 1}"

    def complain(self, rows: np.ndarray, what: str, remedy: str, column: str | None = None) -> None:
        """Note a problem of several rows: the first few one by one, the others as a number."""
        for row in rows[:SHOWN]:
            value = "" if column is None else f", {column} = {_shown(self.particles[column].iloc[row])}"
            self.problems.append(f"{self.at(int(row))}{value}: {what}. {remedy}")
        if len(rows) > SHOWN:
            self.problems.append(f"{self.path}: the same in {len(rows) - SHOWN:,} more rows ({what}).")


def _shown(value: object) -> str:
    return "nothing" if not isinstance(value, str) else repr(value)


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
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the file's rows do not fit its columns ({reason}). Write it again, or mend that line.") from error
    frames = {name: _as_frame(block) for name, block in blocks.items() if block is not None}
    particles = _particle_block(path, frames)
    result = StarBlocks(path, particles, frames.get("optics"), _first_line(text, particles), [])
    _check_whole_rows(result)
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


def _as_frame(block: object) -> pd.DataFrame:
    return block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])


def _particle_block(path: Path, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    named = {name: frame for name, frame in frames.items() if "rlnImageName" in frame.columns}
    tomographic = [column for frame in frames.values() for column in SUBTOMOGRAM_COLUMNS if column in frame.columns]
    if tomographic:
        raise UserError(
            f"{path}: holds sub-tomograms or tilt series ({tomographic[0]}), not single particles. Give single particles."
        )
    if not named:
        found = ", ".join(f"data_{name}" for name in frames) or "none with rows"
        raise UserError(f"{path}: no block has the column rlnImageName (blocks: {found}). Give a file of particles.")
    particles = named.get("particles", next(iter(named.values())))
    if not len(particles):
        raise UserError(f"{path}: there are no particles in it (0 rows). Give a file with particles.")
    return particles.mask(particles == "").reset_index(drop=True)


def _first_line(text: str, particles: pd.DataFrame) -> int:
    """The line of the file on which the first particle stands, counted from 1; 0 where rows and lines don't run in step."""
    first = particles.iloc[0].dropna().tolist()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.split()[: len(first)] == first:
            return number
    return 0


def _check_whole_rows(blocks: StarBlocks) -> None:
    """A row with fewer values than columns, as at the end of a file that was cut off."""
    missing = blocks.particles.isna().to_numpy()
    short = np.flatnonzero(missing[:, -1])
    for row in short[:SHOWN]:
        count = len(missing[row]) - int(np.argmin(missing[row][::-1]))
        blocks.problems.append(
            f"{blocks.at(int(row))}: the row ends after {count} of {missing.shape[1]} columns; the file may have been cut off. "
            "Copy or write it again."
        )
    if len(short) > SHOWN:
        blocks.problems.append(f"{blocks.path}: {len(short) - SHOWN:,} more rows end early.")
