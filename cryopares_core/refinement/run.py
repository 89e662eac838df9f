"""A whole refinement: from a STAR file and maps to a STAR file, going on where it was stopped."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cryopares_core
from cryopares_core.config.refine_arguments import RefineArguments
from cryopares_core.errors import UserError
from cryopares_core.files import stamps, write_text
from cryopares_core.machine import Place, device_of
from cryopares_core.particles.order import file_order
from cryopares_core.particles.stacks import stacks_digest
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.readers import read_json
from cryopares_core.progress import Countdown
from cryopares_core.refinement.inputs import PARTS, RefineInput, read_input
from cryopares_core.refinement.iterate_refined import iterate_refined
from cryopares_core.refinement.references import check_symmetry
from cryopares_core.refinement.refiner import Refiner
from cryopares_core.refinement.results import RefinedPoses
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.shards import Shards, remove_shards

logger = logging.getLogger(__name__)
# What may be another for the same results: where and how fast they are computed.
OF_THE_MACHINE = ("n_threads", "accelerator", "overwrite", "chunk_size")
MOVES, SUMMARY = ".moves.csv", ".moves.json"
FIGURE_OF_MERIT = "rlnParticleFigureOfMerit"
CSV_COLUMNS = ("score", "gain", "moved_degs", "moved_angs", "kept_start", "broken")
MANY = 0.2


def run_refinement(arguments: RefineArguments) -> Path:
    """Refine as asked, and return the STAR file. A run that was stopped goes on when its command is given again, and one that is
    finished says so.

    Raises
    ------
    UserError : anything in the input or the settings that the user can mend
    """
    out_star, asked, started = Path(arguments.out_star), _asked(arguments), time.perf_counter()
    if out_star.is_file() and read_json(out_star.with_suffix(SUMMARY)).get("asked") == asked:
        logger.info("%s holds the results of this very command. Another --out_star begins anew", out_star)
        remove_shards(out_star.with_suffix(PARTS))
        return out_star
    given = read_input(arguments)
    parts = Shards(out_star.with_suffix(PARTS), file_order(given.table), arguments.chunk_size)
    refined = _refine(_refiner(arguments, given), given, parts, {**asked, "pictures": stacks_digest(given.table.stack_paths)})
    _tell(given.table, refined)
    if arguments.iterations:
        refined, iterated = iterate_refined(
            arguments, given, refined, device_of(Place(), arguments.accelerator, arguments.n_threads)
        )
    else:
        iterated = {}
    summary = {"asked": asked, **_summary(refined), **iterated, "seconds": round(time.perf_counter() - started, 1)}
    _write(out_star, given.table, refined, summary)
    remove_shards(parts.folder)
    logger.info("Wrote %s, and what became of each particle to %s", out_star, out_star.with_suffix(MOVES))
    return out_star


def _asked(arguments: RefineArguments) -> dict[str, Any]:
    """What of the arguments makes results these, with size and time of change of the files."""
    values = {name: value for name, value in asdict(arguments).items() if name not in OF_THE_MACHINE}
    files = (arguments.particles_star_fname, arguments.reference_fname, arguments.reference_half2_fname)
    return json.loads(json.dumps({**values, "files": stamps(path for path in files if path)}))


def _refiner(arguments: RefineArguments, given: RefineInput) -> Refiner:
    settings = RefineSettings(**{field.name: getattr(arguments, field.name) for field in fields(RefineSettings)})
    device = device_of(Place(), arguments.accelerator, arguments.n_threads)
    refiner = Refiner(given.table, given.references, settings, device)
    for slices in refiner.maps.all:
        check_symmetry(slices, arguments.symmetry)
    if refiner.resolution_angs > 1.01 * arguments.resolution_angs:
        logger.info("Detail down to %.3g Å is looked at: pictures or maps show none finer", refiner.resolution_angs)
    return refiner


def _refine(refiner: Refiner, given: RefineInput, parts: Shards, asked: dict[str, Any]) -> RefinedPoses:
    """All particles, part by part; those of an earlier run are not done again."""
    try:
        parts.begin(asked)
    except UserError:  # what another command has begun under this name
        remove_shards(parts.folder)
        parts.begin(asked)
    n, before = len(given.table), parts.n_done()
    if before:
        logger.info("An earlier run goes on after %s of %s particles", f"{before:,}", f"{n:,}")
    if before < n:
        refiner.calibrate(given.poses, given.shifts_angs)
    countdown, done = Countdown("Refined", "particles"), 0
    for number in parts.mine(0, wait=True):
        indices, tell = parts.particles(number), partial(_tell_progress, countdown, done, n - before)
        parts.write(number, refiner(indices, given.poses[indices], given.shifts_angs[indices], tell))
        done += len(indices)
    return parts.read(RefinedPoses)


def _tell_progress(countdown: Countdown, earlier: int, total: int, done: int, _: int) -> None:
    countdown(earlier + done, total)


def _write(out_star: Path, table: ParticleTable, refined: RefinedPoses, summary: dict[str, Any]) -> None:
    """The STAR file with all columns and the new poses comes last: where it stands, all is complete."""
    out_star.unlink(missing_ok=True)
    write_text(out_star.with_suffix(SUMMARY), json.dumps(summary, indent=1) + "\n")
    names = table.particles["rlnImageName"]
    rows = zip(names, *(getattr(refined, name) for name in CSV_COLUMNS), strict=True)
    lines = ("{},{:.5f},{:.5f},{:.4f},{:.4f},{:d},{:d}".format(*row) for row in rows)
    write_text(out_star.with_suffix(MOVES), "\n".join([",".join(["rlnImageName", *CSV_COLUMNS]), *lines, ""]))
    posed = table.with_poses(refined.eulers_degs.round(4), refined.shifts_angs.round(4))
    # The probability that the network's pose is right says more than a correlation.
    extra = {} if FIGURE_OF_MERIT in table.particles else {FIGURE_OF_MERIT: refined.score.round(5)}
    posed.write_star(out_star, extra)


def _summary(refined: RefinedPoses) -> dict[str, Any]:
    good = ~refined.broken
    kept, broken = int((refined.kept_start & good).sum()), int(refined.broken.sum())
    medians = {f"median_{name}": round(float(np.median(getattr(refined, name)[good])), 5) for name in CSV_COLUMNS[:4]}
    return {"cryopares": cryopares_core.__version__, "particles": len(refined), "kept_start": kept, "broken": broken, **medians}


def _tell(table: ParticleTable, refined: RefinedPoses) -> None:
    """What the user should know of the result."""
    found, broken = _summary(refined), np.flatnonzero(refined.broken)
    if len(broken):
        logger.warning(
            "%s pictures are constant or have impossible values (NaN, infinite, huge): they keep their poses, with score 0 (%s)",
            *(f"{len(broken):,}", table.names_for_a_sentence(broken)),
        )
    logger.info(
        "Poses turned by %.2f° and shifts moved by %.2f Å (medians); the correlation with the map rose by %.4f to %.4f",
        *(found[f"median_{name}"] for name in ("moved_degs", "moved_angs", "gain", "score")),
    )
    if kept := found["kept_start"]:
        level = logging.WARNING if kept > MANY * len(refined) else logging.INFO
        logger.log(level, "%s particles kept their poses: nothing better lay within bounds", f"{kept:,}")
