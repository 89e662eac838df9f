"""Whether some of the known poses are wrong, by a map of other particles of the sample."""

from __future__ import annotations

import numpy as np

from cryopares_core.training.half_set import LEAST_AGREEMENT
from cryopares_core.training.label_cleaning import MIN_PARTICLES, SUSPECTS, judge_by, share_text
from cryopares_core.training.labels import LabelQuality
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight.findings import POSES, Findings
from cryopares_core.training.preflight.poses import CLEAR, PoseLook
from cryopares_core.training.preflight.sample import Sample

MAX_JUDGED = 1000


def look_at_labels(sample: Sample, plan: Plan, look: PoseLook | None) -> LabelQuality | None:
    """Judge known poses of half set 2 by the map of half set 1; None where the map does not tell.

    Raises
    ------
    UserError : an image cannot be read, or the memory is too small
    """
    judged = sample.of_half(2).numpy()
    if look is None or look.fit.z <= CLEAR or look.made.agreement < LEAST_AGREEMENT or len(judged) < MIN_PARTICLES:
        return None
    chosen = judged[np.linspace(0, len(judged) - 1, min(len(judged), MAX_JUDGED)).astype(int)]
    return judge_by(look.made, plan, sample.table.subset(chosen))


def tell_of_labels(found: Findings, quality: LabelQuality | None, plan: Plan, half_name: str) -> None:
    """The share of wrong known poses, and what becomes of them."""
    if quality is None:
        return
    found.measured.update(wrong_label_share=round(quality.wrong_share, 4), labels_judged=len(quality.probability))
    if not quality.wrong_share:
        found.ok(POSES, f"No sign of wrong known poses among {len(quality.probability):,} particles of the sample.")
        return
    cleaning = (
        f"Training gives them less weight, and writes all suspects to {half_name}/{SUSPECTS}"
        if plan.config.train.label_cleaning
        else f"With train.label_cleaning=True training gives them less weight, and writes all suspects to {half_name}/{SUSPECTS}"
    )
    found.warn(POSES, [f"By {len(quality.probability):,} particles of the sample, {share_text(quality)}. {cleaning}."])
