"""A remark on a run: what the report's advice is made of."""

from dataclasses import dataclass
from typing import List, Tuple

from cryopares_core.plots.readers import Epoch

GOOD, NOTE, WARNING = "good", "note", "warning"
GOOD_MEAN_DEGS = 5.0
CLEAR_CHANGE = 0.05
WAIT_EPOCHS = 5
FULL_NOISE = 0.995  # of the particles': from there on the curriculum is over


@dataclass(frozen=True)
class Remark:
    """A sentence for the user, what it was concluded from, and how serious it is: good, note or warning."""

    text: str
    rule: str
    level: str


def best_errors(epochs: List[Epoch]) -> Tuple[float, float]:
    """Mean and median error in degrees at the lowest validation loss."""
    best: Epoch = min(epochs, key=lambda line: line["val_loss"])
    mean: float = best["val_geo_degs"]
    return mean, best.get("val_median_geo_degs", mean)


def with_full_noise(epochs: List[Epoch]) -> List[Epoch]:
    """Those after the curriculum, whose training losses can be compared with each other and with validation."""
    return [line for line in epochs if line.get("noise", 1.0) >= FULL_NOISE and "loss" in line]
