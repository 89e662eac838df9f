"""Wrong known poses in a training: found once for each half set, kept for a run that goes on, told and written for the user."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cryopares_core.config.model_fit import disc_radius_angs
from cryopares_core.files import atomic_path
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.maps import Reference
from cryopares_core.training.labels import LabelJudge, LabelQuality, label_quality
from cryopares_core.training.plan import Plan
from cryopares_core.training.starting_map import StartingMap

logger = logging.getLogger(__name__)
FILE, SUSPECTS = "label_quality.npz", "suspect_labels.star"
COLUMN = "cryoparesLabelProbability"
MIN_PARTICLES = 200  # fewer make no map that tells
WARNING_SHARE = 0.01


def judged_labels(plan: Plan, table: ParticleTable, folder: Path, own_map: Callable[[], StartingMap | None]) -> LabelQuality | None:
    """How far the known poses of a half set's particles are right; the same in all processes, and again in a run that goes on.

    Parameters
    ----------
    table : the particles of the half set
    folder : of the half set, where the result is kept
    own_map : gives the map that the half set's particles make, None where they make none

    Returns None where the particles make no map, or are too few.

    Raises
    ------
    UserError : an image cannot be read, or the memory is too small
    """
    if len(table) < MIN_PARTICLES:
        return None
    checksum = _checksum(plan, table)
    found: LabelQuality | None = plan.fabric.broadcast(_read(folder / FILE, checksum) if plan.fabric.is_global_zero else None)
    if found is None:
        made = own_map()
        if made is None:
            return None
        with plan.phases("labels"):
            # Sums on GPUs differ in the last digit, and all processes must weigh alike.
            judged = judge_by(made, plan, table) if plan.fabric.is_global_zero else None
            found = plan.fabric.broadcast(judged)
        if plan.fabric.is_global_zero and found is not None:
            _write(folder / FILE, checksum, found)
    if plan.fabric.is_global_zero and found is not None:
        _tell(folder, table, found)
    return found


def judge_by(made: StartingMap, plan: Plan, table: ParticleTable) -> LabelQuality:
    """Judge the labels of all particles of a table by a map on the grid of the prepared images."""
    radius = disc_radius_angs(plan.preprocessing.mask_radius_angs, plan.image_size_px, plan.sampling_rate_angs)
    reference = Reference(made.volume.cpu().numpy(), plan.sampling_rate_angs)
    return label_quality(LabelJudge(table, reference, plan.symmetry, radius, plan.device).log_ratio())


def share_text(quality: LabelQuality) -> str:
    """`about 3.2 % of the known poses are wrong`."""
    return f"about {quality.wrong_share:.1%} of the known poses (± {quality.share_error:.1%}) are wrong"


def _tell(folder: Path, table: ParticleTable, quality: LabelQuality) -> None:
    """In the log, and as a STAR file of the suspects where there are any."""
    if not quality.suspect.any():
        (folder / SUSPECTS).unlink(missing_ok=True)
        logger.info("%s: no sign of wrong known poses", folder.name)
        return
    suspects = np.flatnonzero(quality.suspect)
    table.subset(suspects).write_star(folder / SUSPECTS, {COLUMN: [f"{value:.4f}" for value in quality.probability[suspects]]})
    logger.log(
        logging.WARNING if quality.wrong_share >= WARNING_SHARE else logging.INFO,
        "%s: %s, as its images and their map say. They count little in training, and are left out of validation. %s of %s "
        "particles are in %s",
        *(folder.name, share_text(quality), f"{len(suspects):,}", f"{len(table):,}", f"{folder.name}/{SUSPECTS}"),
    )


def _checksum(plan: Plan, table: ParticleTable) -> str:
    """Of all that the result follows from."""
    found = hashlib.sha256(repr((plan.symmetry, sorted(asdict(plan.preprocessing).items()))).encode())
    for values in (table.eulers_deg, table.shifts_angs, table.stack_id, table.slice_id):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _write(path: Path, checksum: str, quality: LabelQuality) -> None:
    share = np.array((quality.wrong_share, quality.share_error))
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, checksum=np.array(checksum), probability=quality.probability, share=share)


def _read(path: Path, checksum: str) -> LabelQuality | None:
    """What an earlier start of the run has found for these very particles; None where there is no such thing."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["checksum"]) != checksum:
                return None
            return LabelQuality(kept["probability"], *kept["share"].tolist())
    except (OSError, ValueError, KeyError, EOFError):
        return None
