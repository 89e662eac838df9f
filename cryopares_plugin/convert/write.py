"""A Scipion `SetOfParticles` with projection alignment as a RELION STAR file, block by block."""

import logging
import os
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, TextIO

import numpy as np

from cryopares_core.errors import UserError
from cryopares_plugin.convert.check import set_problems
from cryopares_plugin.convert.columns import ParticleColumns
from cryopares_plugin.convert.optics import optics_table
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.stacks import convert_stack, file_of, is_mrc
from cryopares_plugin.convert.star import lines, optics_block, table_head
from cryopares_plugin.files import appearing

logger = logging.getLogger(__name__)

BLOCK = 10_000  # particles: about 40 MB of rows at most

Progress = Callable[[int, int], None]


class Conversion(NamedTuple):
    """What was written: particles, and those left out because they are disabled; groups; particles whose half set was drawn;
    stacks that had to be rewritten as MRC."""

    particles: int
    disabled: int
    optics_groups: int
    halves_drawn: int
    stacks_converted: int

    def __str__(self) -> str:
        parts = [f"{self.particles:,} particles in {self.optics_groups} optics group{'s' if self.optics_groups > 1 else ''}"]
        if self.disabled:
            parts.append(f"{self.disabled:,} disabled left out")
        if self.halves_drawn:
            parts.append(f"half sets of {self.halves_drawn:,} drawn at random")
        if self.stacks_converted:
            parts.append(f"{self.stacks_converted:,} stacks rewritten as .mrcs")
        return ", ".join(parts)


def write_particles(
    particles: Any,
    star_path: str,
    project_path: str = ".",
    half_sets: bool = True,
    seed: int = 0,
    progress: Optional[Progress] = None,
    ids: Optional[np.ndarray] = None,
    poses: bool = True,
) -> Conversion:
    """Write the enabled particles of a set as a STAR file of RELION 3.1, in bounded memory.

    Pictures are not copied: their names stay as Scipion has them, from the project's folder. Only stacks of another format than
    MRC are rewritten, into a folder `stacks` beside the STAR file. The file appears when it is complete.

    Parameters
    ----------
    particles : a `SetOfParticles`, with ALIGN_PROJ where poses are written
    star_path : the file to write
    project_path : the project's folder, which names of files start from
    half_sets : draw half sets for particles that have none
    seed : of that draw
    progress : called with (particles done, all of them) after each block
    ids : rising ids `(n,)` of the particles to write; None: all
    poses : False: poses need not be there, and of those that are only the origins are written

    Raises
    ------
    UserError : poses are missing or are no rotations, the microscope or the sampling rate is not known, no particle is enabled, a
        file cannot be read or written.
    """
    problems = set_problems(particles, needs_ctf=False, needs_poses=poses)
    rows = ParticleRows(particles, project_path, ids)
    count = rows.count()
    if problems or not count:
        raise UserError(problems or f"{rows.path}: no particle is enabled. Choose a set with particles.")
    sampling_rate, alignment = particles.getSamplingRate(), particles.getAlignment()
    stacks = Stacks(sampling_rate, project_path, os.path.join(os.path.dirname(star_path), "stacks"))
    optics = optics_table(particles, rows)
    columns = ParticleColumns(rows, optics, sampling_rate, stacks.name, half_sets, seed, alignment, poses)
    with _appearing(star_path) as star:
        star.write(optics_block(optics.rows) + "\n" + table_head("particles", columns.names))
        _write_rows(star, rows, columns, count, progress or (lambda done, total: None))
    return Conversion(count, rows.count(enabled=False), len(optics.rows), columns.halves.drawn, stacks.converted)


def _write_rows(star: TextIO, rows: ParticleRows, columns: ParticleColumns, count: int, progress: Progress) -> None:
    done = 0
    for block in rows.blocks(columns.labels, BLOCK):
        star.write(lines(columns.formats, columns.values(block)))
        done += len(block["id"])
        progress(done, count)


@contextmanager
def _appearing(path: str) -> Iterator[TextIO]:
    """A text file that has its name only when all of it is on disk. Raises UserError where it cannot be written."""
    try:
        with appearing(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}). Make room there, or mend the folder's rights.") from error


class Stacks:
    """The names under which the core finds the stacks; those of other formats than MRC are rewritten when first met."""

    def __init__(self, sampling_rate: float, project_path: str, folder: str):
        self._sampling_rate, self._project_path, self._folder = sampling_rate, project_path, folder
        self._names: Dict[str, str] = {}
        self.converted = 0

    def name(self, scipions: str) -> str:
        """The file's name in the STAR file."""
        if scipions not in self._names:
            self._names[scipions] = file_of(scipions) if is_mrc(scipions) else self._convert(file_of(scipions))
        return self._names[scipions]

    def _convert(self, name: str) -> str:
        """Rewrite a stack, if an earlier run has not; names of the same base in several folders are kept apart by number."""
        self.converted += 1
        os.makedirs(self._folder, exist_ok=True)
        base = os.path.splitext(os.path.basename(name))[0]
        target = os.path.join(self._folder, f"{self.converted:05d}_{base}.mrcs")
        if not os.path.exists(target):
            logger.info("Rewriting %s as %s: the core reads MRC only", name, target)
            convert_stack(os.path.join(self._project_path, name), target, self._sampling_rate)
        return os.path.relpath(target, self._project_path)
