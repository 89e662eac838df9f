"""Rules on the particles held out at the best epoch: which ones the network finds badly, and whether it knows."""

from typing import Optional

import numpy as np

from cryopares_core.plots.calibration import equal_bins
from cryopares_core.plots.defocus import group_by_defocus
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.plots.records import HalfRecord, column
from cryopares_core.plots.remarks import NOTE, Remark
from cryopares_core.plots.sphere import smoothed_errors

ENOUGH = 200
FEW_TO_TRAIN, MANY_TO_TRAIN = 10_000, 100_000
TOO_SURE = 0.1
WORSE, MARKED_DEGS = 2.5, 10.0
LEAST_SHARE = 0.02
RARE = 0.5


def few_particles(half: HalfRecord, mean_error_degs: float) -> Optional[Remark]:
    """Too little to learn from."""
    if half.n_train is None or half.n_train >= FEW_TO_TRAIN or mean_error_degs < MARKED_DEGS:
        return None
    text = (
        f"{half.name}: it was trained on {half.n_train:,} particles only; over {MANY_TO_TRAIN:,} are recommended. Where there are "
        "no more, let the network first learn from views of a map (map_fname_for_simulated_pretraining), or fine-tune a model of "
        "the same complex (finetune_checkpoint_dir)."
    )
    return Remark(text, f"fewer than {FEW_TO_TRAIN:,} training particles, and a mean error over {MARKED_DEGS:.0f}°", NOTE)


def too_sure(half: HalfRecord) -> Optional[Remark]:
    """Stated confidence that does not come true. Too little of it is usual, as labels have a width."""
    confidence, error_degs = column(half, "confidence"), column(half, "error_degs")
    if confidence is None or error_degs is None or len(confidence) < ENOUGH:
        return None
    bins = equal_bins(confidence, error_degs < GOOD_DEGS)
    excess = float(np.average(np.maximum(bins.stated - bins.true, 0), weights=bins.count))
    if excess < TOO_SURE:
        return None
    text = (
        f"{half.name}: the network is too sure of itself: it gives {confidence.mean():.0%} to poses within {GOOD_DEGS:.0f}°, and "
        f"{(error_degs < GOOD_DEGS).mean():.0%} are. That comes with overfitting: use more label_smoothing "
        "or augmentation, or more particles."
    )
    return Remark(text, f"stated confidence exceeds what came true by over {100 * TOO_SURE:.0f} points on average", NOTE)


def bad_views(half: HalfRecord) -> Optional[Remark]:
    """Directions whose particles are found worse than others, and whether the training set has few of them."""
    views, error_degs = half.views, column(half, "error_degs")
    if views is None or error_degs is None or len(error_degs) < ENOUGH:
        return None
    limit = max(MARKED_DEGS, WORSE * float(np.median(error_degs)))
    bad = (np.nan_to_num(smoothed_errors(views)) > limit) & (views["n_val"] > 0)
    share = views["n_val"][bad].sum() / views["n_val"].sum()
    if share < LEAST_SHARE or share > 0.5:
        return None
    rare = views["n_train"][bad].mean() < RARE * views["n_train"][~bad].mean()
    cause = (
        "They are rare among the training particles: add particles from there."
        if rare
        else "They are not rare in training, so they may look like other views, or their poses in the STAR file are wrong."
    )
    text = f"{half.name}: from some directions, {share:.0%} of the particles, errors are much larger (see the map). {cause}"
    return Remark(text, f"median errors around a direction over {WORSE} times the overall median and over {MARKED_DEGS:.0f}°", NOTE)


def bad_defocus(half: HalfRecord) -> Optional[Remark]:
    """Errors that depend on the defocus."""
    groups = group_by_defocus(half, 4) if half.n_val and half.n_val >= ENOUGH else None
    if groups is None:
        return None
    low, high = float(groups.median[0]), float(groups.median[-1])
    if max(low, high) < WORSE * min(low, high) or max(low, high) < GOOD_DEGS:
        return None
    if low > high:
        side = f"lowest defocus (about {groups.defocus_um[0]:.1f} µm) have little contrast"
    else:
        side = f"highest defocus (about {groups.defocus_um[-1]:.1f} µm) lose detail in this box, or their CTF is wrong"
    text = f"{half.name}: particles of the {side}: their median error is {max(low, high):.1f}°, that at the other end "
    rule = f"{WORSE} times the median error in one outer quarter of the defoci of that in the other, and over {GOOD_DEGS:.0f}°"
    return Remark(f"{text}{min(low, high):.1f}°.", rule, NOTE)
