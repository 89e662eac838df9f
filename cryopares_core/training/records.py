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
    """Predicted poses `(n, 3, 3)`, their errors `(n,)` in degrees, and the network's confidence in them `(n,)`, 0 to 1, of the
    first n particles held out.
    """

    poses: Tensor
    error_degs: Tensor
    confidence: Tensor


class ValidationRecords:
    """Writes `validation.csv` and `views.csv` of a half set.

    Parameters
    ----------
    folder : the half set's
    train_eulers_degs, val_eulers_degs : `(n, 3)` known poses of its particles
    val_names : the pictures' names, of the particles held out
    val_defocus_angs : `(n,)` the mean of their two defoci; None where no CTFs are known
    """

    def __init__(
        self,
        folder: Path,
        train_eulers_degs: np.ndarray,
        val_eulers_degs: np.ndarray,
        val_names: Sequence[str],
        val_defocus_angs: np.ndarray | None = None,
    ):
        self.folder, self.names, self.truth_degs = folder, val_names, val_eulers_degs
        self.defocus_angs = np.full(len(val_eulers_degs), np.nan) if val_defocus_angs is None else val_defocus_angs
        self.n_train = np.bincount(healpix_pixels(VIEW_ORDER, train_eulers_degs), minlength=12 * 4**VIEW_ORDER)

    def write(self, validated: Validated) -> None:
        """Both files, each all or nothing."""
        error_degs = validated.error_degs.double().cpu().numpy()
        found_degs = matrix_to_euler_degs(validated.poses.detach().cpu().double()).numpy()
        truth_degs = self.truth_degs[: len(error_degs)]  # all of them, but in a test of a set-up on a few batches
        confidence = validated.confidence.double().cpu().numpy()
        rows = np.column_stack((truth_degs, found_degs, error_degs, confidence, self.defocus_angs[: len(error_degs)]))
        write_text(self.folder / "validation.csv", _validation_text(rows, self.names))
        write_text(
            self.folder / "views.csv", _views_text(views_of(healpix_pixels(VIEW_ORDER, truth_degs), error_degs, self.n_train))
        )


def _validation_text(rows: np.ndarray, names: Sequence[str]) -> str:
    layout = "%.3f," * (rows.shape[1] - 2) + "%.5f,%.0f,"
    numbers = ((layout % tuple(row)).replace("nan", "") for row in rows.tolist())
    lines = [row + name for row, name in zip(numbers, map(_quoted, names), strict=False)]
    return "\n".join([",".join((*VALIDATION_COLUMNS, "image")), *lines, ""])


def _quoted(name: str) -> str:
    """A name as a cell of a CSV file."""
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def views_of(pixel: np.ndarray, error_degs: np.ndarray, n_train: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Columns `(pixels,)` by the names of VIEW_COLUMNS: numbers of particles, and mean and median error, nan where there are none.

    Parameters
    ----------
    pixel, error_degs : `(n,)` where each particle held out was seen from, and its error
    n_train : `(pixels,)` training particles
    """
    rot, tilt = healpix_centres_degs(VIEW_ORDER).T
    n_val = np.bincount(pixel, minlength=len(rot))
    by_pixel = np.split(error_degs[np.argsort(pixel, kind="stable")], np.cumsum(n_val)[:-1])
    mean, median = (np.array([f(errors) if len(errors) else np.nan for errors in by_pixel]) for f in (np.mean, np.median))
    counts = np.zeros(len(rot), dtype=int) if n_train is None else n_train
    return dict(zip(VIEW_COLUMNS, (rot.copy(), tilt.copy(), counts, n_val, mean, median), strict=True))


def _views_text(views: dict[str, np.ndarray]) -> str:
    """One line a pixel; errors are left empty where there is no particle."""
    rows = zip(*(views[name].tolist() for name in VIEW_COLUMNS), strict=True)
    lines = ["{:.4f},{:.4f},{},{},{:.3f},{:.3f}".format(*row).replace("nan", "") for row in rows]
    return "\n".join([",".join(VIEW_COLUMNS), *lines, ""])
