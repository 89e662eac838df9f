"""Rules on over- and underfitting that look at how losses, errors and the learning rate go from epoch to epoch.

Each takes a half set and its validated epochs, and returns a remark where it applies.
"""

from typing import List, Optional

from cryopares_core.plots.readers import Epoch
from cryopares_core.plots.records import HalfRecord
from cryopares_core.plots.remarks import (
    CLEAR_CHANGE,
    GOOD,
    GOOD_MEAN_DEGS,
    NOTE,
    WAIT_EPOCHS,
    WARNING,
    Remark,
    best_errors,
    with_full_noise,
)

LEARNED_NOTHING = 0.02  # of the first validation loss
FEW_EPOCHS_TO_LEARN = 3
LARGE_GAP, SMALL_GAP = 0.3, 0.15  # of what training has taken off the loss
SMALLEST_GAP_NATS = 0.3
STANDS = 0.01
GROWN = 1.2  # of the lowest error
MANY_EPOCHS = 30
EARLY = 1 / 3  # of all epochs
LOWER_RATE = 0.6  # halved, but for the rise at the start
MARKED_ERROR_DEGS = 2 * GOOD_MEAN_DEGS


def learned_nothing(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Still where it began."""
    first, lowest = epochs[0]["val_loss"], min(line["val_loss"] for line in epochs)
    far = best_errors(epochs)[0] > 6 * GOOD_MEAN_DEGS
    if len(epochs) < FEW_EPOCHS_TO_LEARN or lowest < first - LEARNED_NOTHING * abs(first) or not far:
        return None
    text = (
        f"{half.name}: nothing has been learned that helps with new particles: underfitting, or wrong input. Check symmetry, poses "
        "and CTF of the particles (starting_map.mrc should look like your complex). With few particles or much noise, train longer "
        "(n_epochs), or first on views of a map (map_fname_for_simulated_pretraining)."
    )
    rule = f"validation loss no more than {LEARNED_NOTHING:.0%} under that of the first epoch, and a mean error over 30°"
    return Remark(text, rule, WARNING)


def gap_of_losses(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Overfitting: the network knows its own particles better than new ones."""
    share = _gap_share(epochs)
    if share is None or share < LARGE_GAP:
        return None
    last = epochs[-1]
    text = (
        f"{half.name}: training loss ({last['loss']:.2f}) is far below validation loss ({last['val_loss']:.2f}): overfitting. The "
        "network knows its own particles better than new ones. Use more particles, more augmentation, weight_decay or "
        "label_smoothing, or a smaller lmax."
    )
    rule = f"their distance is over {LARGE_GAP:.0%} of what training has taken off its loss, and over {SMALLEST_GAP_NATS} nats"
    return Remark(text, rule, WARNING)


def no_longer_better(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Overfitting begins: training loss falls on, for nothing."""
    full = with_full_noise(epochs)
    if len(full) <= WAIT_EPOCHS or min(line["val_loss"] for line in full[-WAIT_EPOCHS:]) < full[-WAIT_EPOCHS - 1]["val_loss"]:
        return None
    earlier = full[-WAIT_EPOCHS - 1]
    if full[-1]["loss"] > earlier["loss"] - STANDS * abs(earlier["loss"]):
        return None
    text = (
        f"{half.name}: validation has not become better since epoch {earlier['epoch']}, while training loss still falls. Longer "
        "training brings nothing; early_stopping_n_epochs=5 would end it here. The model of the best epoch is kept."
    )
    return Remark(text, f"no lower validation loss for {WAIT_EPOCHS} epochs, and a training loss that is {STANDS:.0%} lower", NOTE)


def errors_grow(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Overfitting that shows in the errors before it shows in the loss."""
    full = with_full_noise(epochs)
    if not full:
        return None
    best, last = min(full, key=lambda line: line["val_geo_degs"]), full[-1]
    falls = last["loss"] < best["loss"] - STANDS * abs(best["loss"])
    long_ago = len(full) - full.index(best) > WAIT_EPOCHS
    if not (falls and long_ago and last["val_geo_degs"] > GROWN * best["val_geo_degs"]):
        return None
    text = (
        f"{half.name}: errors of the particles held out have grown from {best['val_geo_degs']:.1f}° in epoch {best['epoch']} to "
        f"{last['val_geo_degs']:.1f}°, while training loss still falls: overfitting begins. Use more particles, more augmentation, "
        "weight_decay or label_smoothing, or end training earlier (early_stopping_n_epochs=5)."
    )
    rule = f"mean error {GROWN - 1:.0%} over the lowest, which is {WAIT_EPOCHS} epochs old or older, and a lower training loss"
    return Remark(text, rule, WARNING)


def training_stands_still(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Underfitting: not even its own particles are learned."""
    full = with_full_noise(epochs)
    if len(full) <= WAIT_EPOCHS or best_errors(epochs)[0] < MARKED_ERROR_DEGS:
        return None
    before, now = full[-WAIT_EPOCHS - 1]["loss"], full[-1]["loss"]
    if now < before - STANDS * abs(before):
        return None
    text = (
        f"{half.name}: even training loss has stood still since epoch {full[-WAIT_EPOCHS - 1]['epoch']}, while errors are high: "
        "underfitting. Try a higher learning_rate (5e-3), less weight_decay or augmentation, a larger lmax, or a wider encoder "
        "(unet.width)."
    )
    return Remark(text, f"mean error over 10°, and training loss not {STANDS:.0%} lower than {WAIT_EPOCHS} epochs before", WARNING)


def high_after_many_epochs(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Underfitting: it has learned for long, and too little."""
    mean, _ = best_errors(epochs)
    if len(epochs) < MANY_EPOCHS or mean < MARKED_ERROR_DEGS:
        return None
    text = (
        f"{half.name}: after {len(epochs)} epochs the error is still {mean:.1f}°: underfitting. Try a larger lmax or f_out, a "
        "wider encoder (unet.width) or a higher learning_rate (5e-3). Check that the particles are centred, and that "
        "sampling_rate_angs_for_nnet is fine enough to tell their views apart."
    )
    return Remark(text, f"mean error over {MARKED_ERROR_DEGS:.0f}° after {MANY_EPOCHS} epochs or more", WARNING)


def jumps(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """Validation loss that goes up and down."""
    losses = [line["val_loss"] for line in with_full_noise(epochs)]
    steps = [after - before for before, after in zip(losses, losses[1:])]
    size = [CLEAR_CHANGE * abs(before) for before in losses]
    large = [step > 0 for step, limit in zip(steps, size) if abs(step) > limit]
    turns = sum(before != after for before, after in zip(large, large[1:]))
    if turns < 3:
        return None
    text = (
        f"{half.name}: validation loss jumps up and down. Hold out more particles (val_fraction), use a larger batch_size, or a "
        "lower learning_rate."
    )
    return Remark(text, f"changes of over {CLEAR_CHANGE:.0%} from epoch to epoch that turn round three times or more", NOTE)


def rate_fell_early(half: HalfRecord, epochs: List[Epoch], n_epochs: Optional[int]) -> Optional[Remark]:
    """The rule of plateaus took the learning rate down before much was learned."""
    rates = [(line["epoch"], line["lr"]) for line in epochs if "lr" in line]
    fell = [
        epoch for place, (epoch, rate) in enumerate(rates) if rate < LOWER_RATE * max(before for _, before in rates[: place + 1])
    ]
    if not fell or fell[0] > EARLY * (n_epochs or rates[-1][0]) or best_errors(epochs)[0] < MARKED_ERROR_DEGS:
        return None
    text = (
        f"{half.name}: the learning rate fell as early as in epoch {fell[0]}, and errors stayed high. Raise "
        "patient_reduce_lr_plateau_n_epochs."
    )
    return Remark(text, "lower by 40 % in the first third of the epochs, and a mean error over 10°", NOTE)


def falls_together(half: HalfRecord, epochs: List[Epoch]) -> Optional[Remark]:
    """The sweet spot."""
    share, full = _gap_share(epochs), with_full_noise(epochs)
    if share is None or share > SMALL_GAP or best_errors(epochs)[0] >= GOOD_MEAN_DEGS:
        return None
    falls = [full[-1][name] < full[0][name] for name in ("loss", "val_loss")]
    near_best = full[-1]["val_loss"] <= min(line["val_loss"] for line in full) + STANDS * abs(full[-1]["val_loss"])
    if not (all(falls) and near_best):
        return None
    text = f"{half.name}: training and validation loss fell together and stayed close, as they should."
    return Remark(text, f"both fell to the end, and differ by under {SMALL_GAP:.0%} of what training has taken off its loss", GOOD)


def _gap_share(epochs: List[Epoch]) -> Optional[float]:
    """How far validation loss lies above training loss at the end, beside what training has taken off its loss. None while that is
    little. A gap of a few tenths of a nat counts as none.
    """
    full = with_full_noise(epochs)
    if len(full) < 2 or "loss" not in epochs[0] or full[-1] is not epochs[-1]:
        return None
    learned, gap = epochs[0]["loss"] - full[-1]["loss"], full[-1]["val_loss"] - full[-1]["loss"]
    if learned <= STANDS * abs(epochs[0]["loss"]):
        return None
    return gap / learned if gap > SMALLEST_GAP_NATS else 0.0
