"""What a half set tells about its particles: the pose found for each one held out, and errors and numbers by view direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from cryopares_core.files import write_text
from cryopares_core.geometry.grids import healpix_centres_degs, healpix_pixels
from cryopares_core.geometry.rotations import matrix_to_euler_degs
from cryopares_core.plots.records import VALIDATION_COLUMNS, VIEW_COLUMNS

VIEW_ORDER = 3  # 768 directions, 7 degrees apart


@dataclass(frozen=True)
class Validated:
    """Predicted poses `(n, 3, 3)` and their errors `(n,)` in degrees, of the first n particles held out."""

    poses: Tensor
    error_degs: Tensor


class ValidationRecords:
    """Writes `validation.csv` and `views.csv` of a half set.

    Parameters
    ----------
    folder : the half set's
    train_eulers_degs, val_eulers_degs : `(n, 3)` known poses of its particles
    val_names : the pictures' names, of the particles held out
    """

    def __init__(self, folder: Path, train_eulers_degs: np.ndarray, val_eulers_degs: np.ndarray, val_names: Sequence[str]):
        self.folder, self.names, self.truth_degs = folder, val_names, val_eulers_degs
        self.n_train = np.bincount(healpix_pixels(VIEW_ORDER, train_eulers_degs), minlength=12 * 4**VIEW_ORDER)

    def write(self, validated: Validated) -> None:
        """Both files, each all or nothing."""
        error_degs = validated.error_degs.double().cpu().numpy()
        found_degs = matrix_to_euler_degs(validated.poses.detach().cpu().double()).numpy()
        truth_degs = self.truth_degs[: len(error_degs)]  # all of them, but in a test of a set-up on a few batches
        rows = np.column_stack((truth_degs, found_degs, error_degs))
        write_text(self.folder / "validation.csv", _validation_text(rows, self.names))
        write_text(self.folder / "views.csv", _views_text(self.n_train, healpix_pixels(VIEW_ORDER, truth_degs), error_degs))


def _validation_text(rows: np.ndarray, names: Sequence[str]) -> str:
    layout = "%.3f," * rows.shape[1]
    lines = [layout % tuple(row) + name for row, name in zip(rows.tolist(), map(_quoted, names), strict=False)]
    return "\n".join([",".join((*VALIDATION_COLUMNS, "image")), *lines, ""])


def _quoted(name: str) -> str:
    """A name as a cell of a CSV file."""
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def _views_text(n_train: np.ndarray, pixel: np.ndarray, error_degs: np.ndarray) -> str:
    """One line a pixel: centre, numbers of particles, and mean and median error, left empty where there is no particle."""
    n_val = np.bincount(pixel, minlength=len(n_train))
    by_pixel = np.split(error_degs[np.argsort(pixel, kind="stable")], np.cumsum(n_val)[:-1])
    lines = [
        f"{rot:.4f},{tilt:.4f},{n_train[place]},{n_val[place]},"
        + (f"{errors.mean():.3f},{np.median(errors):.3f}" if len(errors) else ",")
        for place, ((rot, tilt), errors) in enumerate(zip(healpix_centres_degs(VIEW_ORDER), by_pixel, strict=True))
    ]
    return "\n".join([",".join(VIEW_COLUMNS), *lines, ""])
