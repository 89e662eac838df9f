"""What an inference leaves: STAR files with poses and confidence, and the figures of its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryopares_core.files import write_text
from cryopares_core.geometry.grids import healpix_centres_degs, healpix_pixels
from cryopares_core.inference.consensus import COLUMN as DISAGREEMENT
from cryopares_core.inference.consensus import consensus_figures
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.inference import VIEW_COLUMNS

KEPT, ALL, FURTHER = "particles.star", "all.star", "further_poses.star"
CONFIDENCE, RANK = "rlnParticleFigureOfMerit", "cryoparesRank"
ORIGINS = (("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY"))
VIEW_ORDER = 3  # 768 directions, 7 degrees apart
SHARES_AT = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
N_BINS = 50


@dataclass(frozen=True)
class Selection:
    """Which particles are kept: those that are at least so sure, and whose half models disagree by less. None keeps all."""

    min_confidence: float | None = None
    max_disagreement_degs: float | None = None


@dataclass(frozen=True)
class Results:
    """What is known of the particles of a table.

    Attributes
    ----------
    eulers_degs, confidence : `(n, k, 3)` and `(n, k)` poses and the probability that they are within 5 degrees of the truth, the
        surest first; 0 where there is none
    shifts_angs : `(n, k, 2)` x, y: what centres the particle
    broken : `(n,)` pictures that could not be used
    disagreement_degs : `(n,)` of the poses by the models of both half sets; None where these were not compared
    """

    table: ParticleTable
    eulers_degs: np.ndarray
    confidence: np.ndarray
    shifts_angs: np.ndarray
    broken: np.ndarray
    disagreement_degs: np.ndarray | None = None

    def kept(self, selection: Selection) -> np.ndarray:
        """`(n,)` which particles are good enough."""
        sure = ~self.broken & (self.confidence[:, 0] >= (selection.min_confidence or 0.0))
        if self.disagreement_degs is None or selection.max_disagreement_degs is None:
            return sure
        return sure & (self.disagreement_degs < selection.max_disagreement_degs)

    def columns(self) -> dict[str, np.ndarray]:
        """What stands beside the poses in the STAR files, each `(n,)`."""
        found = {CONFIDENCE: self.confidence[:, 0].round(5)}
        return found if self.disagreement_degs is None else {**found, DISAGREEMENT: self.disagreement_degs.round(4)}

    def posed_table(self) -> ParticleTable:
        """The table with the surest poses; origins keep their text where they are there and are not changed."""
        there = any(set(names) <= set(self.table.particles.columns) for names in ORIGINS)
        shifts = self.shifts_angs[:, 0].astype(np.float64)
        unchanged = there and np.array_equal(shifts, self.table.shifts_angs)
        return self.table.with_poses(self.eulers_degs[:, 0].round(4), None if unchanged else shifts.round(4))


def write_particles(folder: Path, results: Results, selection: Selection) -> None:
    """The STAR files: the particles kept; all, where some are not; and further poses, where there are. Each all or nothing."""
    kept, table, columns = results.kept(selection), results.posed_table(), results.columns()
    chosen = np.flatnonzero(kept)
    for old in (ALL, FURTHER):
        (folder / old).unlink(missing_ok=True)  # of the same poses at another threshold
    if not kept.all():
        table.write_star(folder / ALL, columns)
    if results.confidence.shape[1] > 1:
        _write_further(folder / FURTHER, table, results)
    table.subset(chosen).write_star(folder / KEPT, {name: values[chosen] for name, values in columns.items()})


def _write_further(path: Path, table: ParticleTable, results: Results) -> None:
    """One row for each pose of each particle but its first, in the order of the particles and of confidence."""
    place, rank = np.nonzero((results.confidence > 0) & (np.arange(results.confidence.shape[1]) > 0))
    shifts = results.shifts_angs[place, rank].astype(np.float64).round(4)
    rows = table.subset(place).with_poses(results.eulers_degs[place, rank].round(4), shifts)
    rows.write_star(path, {CONFIDENCE: results.confidence[place, rank].round(5), RANK: rank + 1})


def figures(results: Results, selection: Selection) -> dict[str, Any]:
    """Numbers for `infer.json`: how many, how sure."""
    good = results.confidence[~results.broken, 0]
    counts, edges = np.histogram(good, bins=N_BINS, range=(0.0, 1.0))
    kept = results.kept(selection)
    return {
        "particles": len(results.table),
        "kept": int(kept.sum()),
        "broken": int(results.broken.sum()),
        "threshold": selection.min_confidence,
        "expected_share_right": _mean(good),
        "expected_share_right_of_kept": _mean(results.confidence[kept, 0]),
        "share_above": {f"{limit:g}": _mean(good >= limit) for limit in SHARES_AT},
        "histogram": {"edges": edges.round(4).tolist(), "counts": counts.tolist()},
        **_consensus(results, selection),
    }


def _consensus(results: Results, selection: Selection) -> dict[str, Any]:
    """How far the half models disagree; nothing where they were not compared."""
    if results.disagreement_degs is None:
        return {}
    by_confidence = results.kept(Selection(selection.min_confidence))
    n_dropped = int((by_confidence & ~results.kept(selection)).sum())
    compared = results.disagreement_degs[~results.broken]
    return {"consensus": consensus_figures(compared, selection.max_disagreement_degs, n_dropped)}


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 5) if len(values) else 0.0


def write_views(path: Path, results: Results, selection: Selection) -> None:
    """`views.csv`: by view direction how many particles were kept, and how sure their poses are."""
    kept = results.kept(selection)
    pixel, centres = healpix_pixels(VIEW_ORDER, results.eulers_degs[kept, 0]), healpix_centres_degs(VIEW_ORDER)
    count = np.bincount(pixel, minlength=len(centres))
    total = np.bincount(pixel, results.confidence[kept, 0], minlength=len(centres))
    columns = (*centres.T, count, total / np.maximum(count, 1))
    rows = ("{:.4f},{:.4f},{},{:.4f}".format(*row) for row in zip(*columns, strict=True))
    write_text(path, "\n".join([",".join(VIEW_COLUMNS), *rows, ""]))
