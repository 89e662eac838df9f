"""A whole inference: poses of all particles by all processes, then what is made of them, by the first one."""

from __future__ import annotations

import fcntl
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cryopares_core
from cryopares_core.config.infer_arguments import BOTH_EVIDENCES, MAP_ALONE, NETWORK, InferArguments
from cryopares_core.errors import UserError
from cryopares_core.files import write_text
from cryopares_core.inference.exchange import opened
from cryopares_core.inference.improve import FOLDER, references_of, refine, refined_shards
from cryopares_core.inference.inputs import asked
from cryopares_core.inference.job import PREDICTIONS, Job, Work, prepare_job, work_through
from cryopares_core.inference.posterior import PosteriorSearch
from cryopares_core.inference.predict import Found, PredictionSettings, ShardPredictor
from cryopares_core.inference.processes import helpers, wanted_here
from cryopares_core.inference.results import KEPT, Results, Selection, figures
from cryopares_core.inference.steps import steps_of
from cryopares_core.inference.verdicts import report_agreement
from cryopares_core.machine import Place, given_place
from cryopares_core.plots.consensus import consensus_text
from cryopares_core.plots.inference import FILE, RECONSTRUCTION, write_inference_report
from cryopares_core.plots.readers import read_json
from cryopares_core.refinement.maps import Reference
from cryopares_core.training.account import kept_warnings
from cryopares_core.training.calibration import Calibration, Odds
from cryopares_core.training.phases import Phases
from cryopares_core.volumes.picture_fit import MAP

logger = logging.getLogger(__name__)


def run_inference(arguments: InferArguments) -> Path:
    """Find poses as asked, and return the results folder. A run that was stopped goes on when its command is given again, and one
    that is finished says so.

    Raises
    ------
    UserError : anything in the input or the settings that the user can mend
    """
    folder = Path(arguments.results_dir)
    if _is_finished(folder, arguments):
        logger.info("%s holds the results of this very command. Another folder begins anew", folder)
        return folder
    place = given_place()
    if place is not None:
        if place.rank > 0:
            logging.getLogger("cryopares_core").setLevel(logging.ERROR)  # the first one tells of the run
        work(arguments, place)
        return folder
    count = wanted_here(arguments.devices, arguments.accelerator)
    with helpers(count, work, arguments):
        work(arguments, Place(0, count, 0, count))
    return folder


def _is_finished(folder: Path, arguments: InferArguments) -> bool:
    known = read_json(folder / FILE).get("asked")
    return known == json.loads(json.dumps(asked(arguments))) and (folder / KEPT).is_file()


def work(arguments: InferArguments, place: Place) -> None:
    """What each process does; the first one finishes."""
    phases, started = Phases(), time.perf_counter()
    with kept_warnings() as warnings, _model(arguments.checkpoint_dir) as checkpoint_dir:
        job = prepare_job(arguments, place, checkpoint_dir, phases)
        searches = _searches(job)
        references = references_of(job) if arguments.refine or searches else {}
        job.shards.begin(job.about)
        n_before = job.shards.n_done()
        predict(job, references if searches else None)
        if arguments.refine:
            refine(job, references)
        if place.rank == 0:
            with _alone(job.results_dir):
                if not _is_finished(job.results_dir, arguments):
                    _finish(job, started, len(job.particles.table) - n_before, warnings.texts)


def _model(path: str | None) -> AbstractContextManager[Path | None]:
    return nullcontext(None) if path is None else opened(path)


def _searches(job: Job) -> bool:
    """Whether a map has a say. A model without a map of its training particles answers alone where no map is given."""
    arguments = job.arguments
    if arguments.used_evidence == NETWORK:
        return False
    missing = [name for name, model in job.models.items() if not (model.folder / MAP).is_file()]
    if arguments.used_evidence == BOTH_EVIDENCES and missing and not arguments.reference_fname:
        logger.warning(
            "The model %s has no map of its training particles: the network alone decides on the poses. Give a map with "
            "--reference_fname for better ones",
            " and ".join(missing),
        )
        return False
    return True


def predict(job: Job, references: dict[int, Reference] | None = None) -> None:
    """Find poses until all shards are done. Who refines them needs all of them; else only the first process waits for the others.

    Parameters
    ----------
    references : the map of each half set for a search; None lets the network alone decide

    Raises
    ------
    UserError : the memory is too small, or a stack cannot be read
    """

    def begin() -> Work:
        if references is not None:
            return PosteriorSearch(job, references, uses_network=job.arguments.used_evidence == BOTH_EVIDENCES)
        settings = PredictionSettings(job.arguments.batch_size, job.arguments.top_k, job.arguments.quarter_turns)
        return ShardPredictor(job.particles.table, job.assignment, job.models, job.device, settings, job.phases)

    try:
        work_through(job, job.shards, "Found the poses of", begin, wait=job.place.rank == 0 or job.arguments.refine)
    except torch.OutOfMemoryError as error:
        raise UserError(f"The memory is too small. Lower --batch_size (now {job.arguments.batch_size}).") from error


def _finish(job: Job, started: float, n_now: int, warnings: list[str]) -> None:
    """Go through the steps, and tell of the end. `n_now` particles are new since `started`."""
    (job.results_dir / FILE).unlink(missing_ok=True)  # it would call a mixture of old and new files finished
    _remove_leftovers(job.results_dir)
    found = job.shards.read(Found)
    top = slice(None, job.arguments.top_k)
    columns = (found.eulers_degs[:, top], found.confidence[:, top], found.shifts_angs[:, top], found.broken)
    results = Results(job.particles.table, *columns, found.disagreement_degs if job.arguments.asks_consensus else None)
    _tell_of_broken(results)
    report_agreement(found.network_mass, job.symmetry)
    for step in steps_of(job.arguments):
        results = step(job, results)
    _tell_of_none(job, results)
    seconds = time.perf_counter() - started
    _write_summary(job, results, {"seconds": seconds, "particles_per_second": n_now / seconds}, warnings)
    write_inference_report(job.results_dir)
    for shards in [job.shards, *([refined_shards(job)] if job.arguments.refine else [])]:
        shards.tidy()
    job.phases.write(job.results_dir)
    logger.info("%s", _told(job, results))
    logger.info("%s", job.phases.table())


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote; whatever else the folder holds is not ours."""
    for place in (folder, *(folder / name for name in (PREDICTIONS, FOLDER, RECONSTRUCTION))):
        for path in place.glob(".*.tmp"):
            if path.is_file():
                path.unlink(missing_ok=True)


def _tell_of_broken(results: Results) -> None:
    broken = np.flatnonzero(results.broken)
    if len(broken):
        logger.warning(
            "%s pictures are constant or have impossible values (NaN, infinite, huge): they are left out (%s); in all.star their "
            "confidence is 0",
            *(f"{len(broken):,}", results.table.names_for_a_sentence(broken)),
        )


def _tell_of_none(job: Job, results: Results) -> None:
    if results.kept(job.selection).any():
        return
    if results.kept(Selection(job.selection.min_confidence)).any() and results.disagreement_degs is not None:
        logger.warning(
            "No particle that is sure enough has half models that agree to %g°: the smallest disagreement of all is %.3g°. Raise "
            "--consensus_max_error_degs",
            *(job.arguments.consensus_max_error_degs, results.disagreement_degs.min()),
        )
        return
    logger.warning(
        "No particle reaches the confidence of %g: the highest is %.3g. Lower --confidence_threshold",
        *(job.arguments.confidence_threshold or 0.0, results.confidence[:, 0].max()),
    )


def _write_summary(job: Job, results: Results, timing: dict[str, float], warnings: list[str]) -> None:
    """`infer.json`: its presence says that the run is finished."""
    calibrations = {name: model.calibration for name, model in job.models.items() if model.calibration is not None}
    odds = {name: _reliability(job, found) for name, found in calibrations.items()}
    summary: dict[str, Any] = {
        "cryopares": cryopares_core.__version__,
        "command": sys.argv,
        "asked": job.asked,
        "models": list(job.models),
        "evidence": job.arguments.used_evidence,
        "symmetry": job.symmetry,
        **figures(results, job.selection),
        "calibration": {name: of_model.reliability() for name, of_model in odds.items() if of_model is not None},
        **{name: round(value, 2) for name, value in timing.items()},
        "processes": job.place.count,
        "warnings": warnings,
    }
    write_text(job.results_dir / FILE, json.dumps(summary, indent=1) + "\n")


def _reliability(job: Job, calibration: Calibration) -> Odds | None:
    """What the confidence of this run was calibrated by."""
    if job.arguments.used_evidence == MAP_ALONE:
        return None
    if job.arguments.used_evidence == BOTH_EVIDENCES and calibration.posterior is not None:
        return calibration.posterior.right
    return calibration.near if job.arguments.refine else calibration.right


def _told(job: Job, results: Results) -> str:
    found = figures(results, job.selection)
    by_network = job.arguments.refine and job.arguments.used_evidence == NETWORK
    near = "were near enough for refinement to find the right pose" if by_network else "are within 5°"
    lines = [
        f"Finished: {found['kept']:,} of {found['particles']:,} particles are in {job.results_dir / KEPT}",
        f"By their confidence {found['expected_share_right_of_kept']:.0%} of their poses {near}",
        *([consensus_text(found["consensus"]).rstrip(".")] if "consensus" in found else []),
        f"Open {job.results_dir / 'report.html'} to see more",
    ]
    return "\n".join(lines)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time within the `with` block, where the disk knows locks."""
    with open(folder / ".finish.lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("%s: the disk knows no locks (%s)", folder, error)
        yield
