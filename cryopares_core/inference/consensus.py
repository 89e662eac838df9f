"""How far the poses by the models of both half sets disagree: both are seldom wrong in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.plots.consensus import consensus_edges_degs
from cryopares_core.plots.errors import GOOD_DEGS

COLUMN = "rlnPoseConsensusAngularError"
NO_AGREEMENT_DEGS = 180.0  # of images that could not be used


def disagreement_degs(own_degs: np.ndarray, other_degs: np.ndarray, symmetry: str) -> np.ndarray:
    """Geodesic distances `(n,)` of poses given as Euler angles `(n, 3)`, all in degrees, the smallest under a point group."""
    own, other = (euler_degs_to_matrix(torch.from_numpy(degs).double()) for degs in (own_degs, other_degs))
    return pose_error_degs(own, other, point_group(symmetry).matrices).numpy()


def consensus_figures(disagreement: np.ndarray, max_error_degs: float | None, n_dropped: int) -> dict[str, Any]:
    """Numbers for `infer.json`.

    Parameters
    ----------
    disagreement : `(n,)` in degrees, of the usable images
    max_error_degs : particles above were dropped; None where all were kept
    n_dropped : particles that were left out for their disagreement alone
    """
    edges, some = consensus_edges_degs(), len(disagreement) > 0
    counts = np.histogram(disagreement.clip(edges[0], edges[-1]), edges)[0]
    return {
        "max_error_degs": max_error_degs,
        "median_degs": round(float(np.median(disagreement)), 4) if some else None,
        "share_within_5_degs": round(float((disagreement < GOOD_DEGS).mean()), 5) if some else 0.0,
        "dropped": n_dropped,
        "histogram": {"edges": edges.round(5).tolist(), "counts": counts.tolist()},
    }
