"""Errors of found poses against the truth, with error bars over particles, and the tables of the accuracy benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import starfile
import torch
from accuracy_sets import ANGLES

from cryopares_core.geometry.alignment import common_turn, distances_degs
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.geometry.symmetry import point_group

RESAMPLES, BOOTSTRAP_SEED = 1000, 0
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda errors: errors.mean(axis=-1),
    "median": lambda errors: np.median(errors, axis=-1),
    "under 5": lambda errors: 100 * (errors < 5).mean(axis=-1),
    "under 10": lambda errors: 100 * (errors < 10).mean(axis=-1),
}


def errors_degs(found: Path, truth: Path, symmetry: str, left_out: set[str], aligned: bool = False) -> np.ndarray:
    """Angular errors of a STAR file against another with the same image names, `(n,)` in degrees.

    Parameters
    ----------
    left_out : names of images that have no true pose
    aligned : first turn each half set by the one rotation that brings it nearest to the truth. Another state of a molecule
        fits its reference a little turned, and a refinement whose reference moves is free to turn.
    """
    rows = starfile.read(found, always_dict=True)["particles"]
    rows = rows[~rows["rlnImageName"].isin(left_out)]
    true_rows = starfile.read(truth, always_dict=True)["particles"].set_index("rlnImageName").loc[rows["rlnImageName"]]
    poses, true_poses = (euler_degs_to_matrix(torch.from_numpy(table[ANGLES].to_numpy(float))) for table in (rows, true_rows))
    group = point_group(symmetry).matrices.double()
    if aligned:
        for half in (1, 2):
            own = torch.from_numpy(rows["rlnRandomSubset"].to_numpy(int) == half)
            poses[own] = poses[own] @ common_turn(poses[own], true_poses[own], group)
    return distances_degs(poses, true_poses, group).numpy()


def score(errors: np.ndarray) -> dict[str, list[float]]:
    """Mean, median (degrees) and shares under 5 and 10 degrees (%), each with its standard error by bootstrap over particles."""
    random = np.random.default_rng(BOOTSTRAP_SEED)
    resampled = errors[random.integers(len(errors), size=(RESAMPLES, len(errors)))]
    return {name: [float(of(errors)), float(of(resampled).std())] for name, of in STATISTICS.items()}


def markdown(title: str, records: list[dict[str, Any]]) -> str:
    """A table of one study: a row for each method. Aligned: after one common rotation of each half set."""
    head = (
        "| | ms an image (with start-up) | mean | median | under 5° | under 10° | aligned: median | under 5° | map against truth |"
    )
    rows = "\n".join(row(record) for record in records)
    return f"### {title}\n\n{head}\n|---|---|---|---|---|---|---|---|---|\n{rows}\n"


def row(record: dict[str, Any]) -> str:
    """A record of one method as a row of the table."""

    def value(name: str, scores: str = "scores") -> str:
        found, error = record[scores][name]
        return f"{found:.1f} ± {error:.1f} %" if name.startswith("under") else f"{found:.2f} ± {error:.2f}°"

    marginal = record.get("marginal_ms")
    time = f"{record['ms']:.0f}" if marginal is None else f"{marginal:.1f} ({record['ms']:.1f})"
    numbers = [*map(value, STATISTICS), value("median", "aligned_scores"), value("under 5", "aligned_scores")]
    resolution = f"{record['resolution_angs']:.1f} Å"
    return f"| {' | '.join([record['method'], time, *numbers, resolution])} |"
