"""What a run's curves mean in plain words, each remark with the rule it comes from."""

from typing import List, Optional

from cryopares_core.plots.curve_rules import (
    errors_grow,
    falls_together,
    gap_of_losses,
    high_after_many_epochs,
    jumps,
    learned_nothing,
    no_longer_better,
    rate_fell_early,
    training_stands_still,
)
from cryopares_core.plots.particle_rules import bad_defocus, bad_views, few_particles, too_sure
from cryopares_core.plots.readers import Epoch
from cryopares_core.plots.records import HalfRecord, RunRecord, share_under
from cryopares_core.plots.remarks import CLEAR_CHANGE, GOOD, GOOD_MEAN_DEGS, NOTE, WAIT_EPOCHS, WARNING, Remark, best_errors

__all__ = ["GOOD", "NOTE", "WARNING", "Remark", "judge", "judge_half"]
USABLE_MEAN_DEGS, USABLE_MEDIAN_DEGS = 15.0, 8.0
LOOK_BACK = 3
FEW_HELD_OUT = 100


def judge(record: RunRecord) -> List[Remark]:
    """Remarks on each half set and on the run; empty before the first validation."""
    remarks = [remark for half in record.halves.values() for remark in judge_half(half, record.n_epochs)]
    extra = [_unfinished(record), _halves_differ(record)]
    return remarks + [remark for remark in extra if remark]


def judge_half(half: HalfRecord, n_epochs: Optional[int] = None) -> List[Remark]:
    """Remarks on one half set's epochs; whether it needs more than `n_epochs` shows when it has done them."""
    epochs = [line for line in half.epochs if "val_loss" in line and "val_geo_degs" in line]
    if not epochs:
        return []
    found = [_level(half, epochs), _few(half), rate_fell_early(half, epochs, n_epochs)]
    found += _on_fit(half, epochs, ended=n_epochs is None or len(half.epochs) >= n_epochs)
    found += [few_particles(half, best_errors(epochs)[0])]
    found += [_outliers(half, epochs), bad_views(half), bad_defocus(half), too_sure(half)]
    return [remark for remark in found if remark]


def _on_fit(half: HalfRecord, epochs: List[Epoch], ended: bool) -> List[Optional[Remark]]:
    """Over- and underfitting, where one remark makes the weaker ones of its kind superfluous."""
    over = _overfits(half, epochs) or gap_of_losses(half, epochs) or errors_grow(half, epochs) or no_longer_better(half, epochs)
    under = None if over else learned_nothing(half, epochs) or training_stands_still(half, epochs)
    if not ended:
        return [over, under, jumps(half, epochs)]
    under = under or (None if over else _stands_still(half, epochs) or high_after_many_epochs(half, epochs))
    return [over, under, jumps(half, epochs), _still_falls(half, epochs), falls_together(half, epochs)]


def _level(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    mean, median = best_errors(epochs)
    at = f"{half.name}: the particles held out are off by {mean:.1f}° on average, {median:.1f}° in the median."
    if mean < GOOD_MEAN_DEGS:
        return Remark(f"{at} This is a good model.", f"mean error under {GOOD_MEAN_DEGS:.0f}°", GOOD)
    if mean < USABLE_MEAN_DEGS and median < USABLE_MEDIAN_DEGS:
        rule = f"mean error under {USABLE_MEAN_DEGS:.0f}° and median under {USABLE_MEDIAN_DEGS:.0f}°"
        return Remark(f"{at} This model can be used; there is room for better.", rule, GOOD)
    rule = f"mean error of {USABLE_MEAN_DEGS:.0f}° or more, or median of {USABLE_MEDIAN_DEGS:.0f}° or more"
    return Remark(f"{at} This is not enough for reliable poses.", rule, WARNING)


def _overfits(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Validation loss rises from its best epoch on, while training loss goes on falling."""
    best = min(range(len(epochs)), key=lambda place: epochs[place]["val_loss"])
    since, last = epochs[best:], epochs[-1]
    if len(since) <= LOOK_BACK or "loss" not in last or "loss" not in since[0]:
        return None
    rises = last["val_loss"] - since[0]["val_loss"] > CLEAR_CHANGE * abs(since[0]["val_loss"])
    if not (rises and last["loss"] < since[0]["loss"]):
        return None
    text = (
        f"{half.name}: validation loss rises while training loss falls since epoch {since[0]['epoch']}: overfitting. The model of "
        "that epoch is kept. Use more particles, more weight_decay or augmentation, or a smaller lmax."
    )
    rule = f"over {LOOK_BACK} epochs after the best, validation loss is {CLEAR_CHANGE:.0%} higher and training loss lower"
    return Remark(text, rule, WARNING)


def _still_falls(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    recent = [line["val_geo_degs"] for line in epochs[-LOOK_BACK - 1 :]]
    fell = len(recent) > LOOK_BACK and all(later < earlier for earlier, later in zip(recent, recent[1:]))
    if not fell or recent[-1] > (1 - CLEAR_CHANGE) * recent[0]:
        return None
    rule = f"mean error fell in each of the last {LOOK_BACK} epochs, by over {CLEAR_CHANGE:.0%} in all"
    text = f"the error still fell in the last three epochs, from {recent[0]:.1f}° to {recent[-1]:.1f}°: train longer (n_epochs)."
    return Remark(f"{half.name}: {text}", rule, NOTE)


def _stands_still(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """High errors and a flat loss: the network is too small, the learning rate too low, or the data wrong."""
    if len(epochs) <= WAIT_EPOCHS or best_errors(epochs)[0] < 2 * GOOD_MEAN_DEGS:
        return None
    earlier = min(line["val_loss"] for line in epochs[:-WAIT_EPOCHS])
    recent = min(line["val_loss"] for line in epochs[-WAIT_EPOCHS:])
    if recent < earlier - 0.01 * abs(earlier):
        return None
    text = (
        "validation no longer gets better while errors are high: underfitting, or wrong input. Check symmetry, poses and CTF of "
        "the particles, then try a larger lmax, a wider encoder (unet.width) or a higher learning_rate."
    )
    return Remark(f"{half.name}: {text}", f"mean error over 10° and no lower validation loss for {WAIT_EPOCHS} epochs", WARNING)


def _outliers(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    mean, median = best_errors(epochs)
    if median > USABLE_MEDIAN_DEGS or mean < 2 * median or mean < GOOD_MEAN_DEGS:
        return None
    far = share_under(half, 30.0)
    share = "" if far is None else f" ({1 - far:.0%} are off by more than 30°)"
    text = f"{half.name}: most particles are found well and some are far off{share}: bad particles, wrong poses in the STAR file, "
    return Remark(
        text + "or views that look alike.", f"median up to {USABLE_MEDIAN_DEGS:.0f}°, and mean error over twice the median", NOTE
    )


def _few(half: HalfRecord) -> Optional[Remark]:
    if half.n_val is None or half.n_val >= FEW_HELD_OUT:
        return None
    text = f"{half.name}: only {half.n_val} particles were held out: the errors are uncertain."
    return Remark(text, f"fewer than {FEW_HELD_OUT} particles held out", NOTE)


def _unfinished(record: RunRecord) -> Optional[Remark]:
    if record.finished or record.n_epochs is None or not record.halves:
        return None
    epochs = {name: len(record.halves[name].epochs) if name in record.halves else 0 for name in record.expected}
    done = ", ".join(f"{name} {count} of {record.n_epochs}" for name, count in epochs.items())
    text = f"The run has not done all its epochs yet ({done}). If it was stopped, it goes on with"
    return Remark(
        f"{text} cryopares_train --continue_checkpoint_dir {record.folder}", "epochs in metrics.jsonl against n_epochs", NOTE
    )


def _halves_differ(record: RunRecord) -> Optional[Remark]:
    """Two half sets of the same particles should do equally well."""
    best = [half.best for half in record.halves.values() if len(half.epochs) == record.n_epochs]
    means = sorted(line["val_geo_degs"] for line in best if line and "val_geo_degs" in line)
    if len(means) < 2 or means[1] < 1.5 * means[0] or means[1] < GOOD_MEAN_DEGS:
        return None
    text = f"The half sets differ: mean errors of {means[0]:.1f}° and {means[1]:.1f}°. Train longer, or look for what differs in "
    return Remark(text + "their particles.", "one mean error 1.5 times the other", WARNING)
