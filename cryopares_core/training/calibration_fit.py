"""Learning a calibration: a penalised logistic curve, and a smooth term by view, chosen by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from cryopares_core.geometry.grids import healpix_directions
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.plots.calibration import FOLDS, calibration_gap, equal_bins
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.training.calibration import VIEW_ORDER, Calibration, Odds, Signs, artanh, pixels, sigmoid, terms

NEAR_DEGS = 15.0  # refinement finds the truth from there
# The stated confidence is right, and fit and network add nothing: as much as one particle.
PRIOR = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
RISING = np.array([True, True, False, True, True])  # more confidence and a better fit never mean less
VIEW_WIDTHS_DEGS = (12.0, 20.0, 35.0)
TURNS = 3  # between curve and views
VIEW_PRIORS = (1.0, 4.0, 16.0)  # the information at which a view's own particles count as much as those of all views


def fit_calibration(signs: Signs, error_degs: np.ndarray, symmetry: str) -> Calibration:
    """The calibration from particles held out.

    Parameters
    ----------
    error_degs : `(n,)` how far the poses were from the truth
    symmetry : the point group, under which several directions show the same view
    """
    fit_scale = None if signs.fit is None else _scale_of(signs.fit)
    known = terms(signs, fit_scale), pixels(signs)

    def odds(radius_degs: float) -> Odds:
        data = _Data(known[0], (error_degs < radius_degs).astype(np.float64), known[1])
        return _fit_odds(data, signs.stated, radius_degs, symmetry)

    return Calibration(len(error_degs), fit_scale, right=odds(GOOD_DEGS), near=odds(NEAR_DEGS))


def _fit_odds(data: _Data, stated: np.ndarray, radius_degs: float, symmetry: str) -> Odds:
    fold = np.random.default_rng(0).permutation(len(stated)) % FOLDS
    kernels = [_kernel(symmetry, width) for width in VIEW_WIDTHS_DEGS]
    ways: list[Any] = [None, *((kernel, prior) for kernel in kernels for prior in VIEW_PRIORS)]
    judged = [_cross_fitted(data, fold, way) for way in ways]
    best = int(np.argmin([_log_loss(data.right, logits) for logits in judged]))
    corrected = sigmoid(judged[best])
    gaps = calibration_gap(stated, data.right), calibration_gap(corrected, data.right)
    bins = equal_bins(stated, data.right), equal_bins(corrected, data.right)
    return Odds(radius_degs, *_fit(data, ways[best]), *gaps, *bins)


@dataclass(frozen=True)
class _Data:
    """`terms` `(n, 4)` or `(n, 5)` of the curve, whether poses were `right` `(n,)`, and the `pixel` `(n,)` of each view."""

    terms: np.ndarray
    right: np.ndarray
    pixel: np.ndarray

    def some(self, chosen: np.ndarray) -> _Data:
        return _Data(self.terms[chosen], self.right[chosen], self.pixel[chosen])


def _cross_fitted(data: _Data, fold: np.ndarray, way: Any) -> np.ndarray:
    """Each particle's logit, learned without it."""
    logits = np.empty(len(data.right))
    for number in range(FOLDS):
        out = fold == number
        curve, view_logits = _fit(data.some(~out), way)
        logits[out] = data.terms[out] @ curve + view_logits[data.pixel[out]]
    return logits


def _fit(data: _Data, way: Any) -> tuple[np.ndarray, np.ndarray]:
    """Curve and view term, in turns; `way` has the kernel and the prior of the latter, or is None for none."""
    view_logits = np.zeros(12 * 4**VIEW_ORDER)
    if way is None:
        return _fit_curve(data, view_logits), view_logits
    for _ in range(TURNS):
        curve = _fit_curve(data, view_logits)
        view_logits = _better_views(data, curve, view_logits, *way)
    return curve, view_logits


def _fit_curve(data: _Data, view_logits: np.ndarray) -> np.ndarray:
    """The most probable curve, by Newton's method; what would fall stays at 0 for as long as it would."""
    n_terms, added = data.terms.shape[1], view_logits[data.pixel]
    prior, rising = PRIOR[:n_terms], RISING[:n_terms]
    curve = prior.copy()
    for _ in range(100):
        p = sigmoid(data.terms @ curve + added)
        gradient = data.terms.T @ (data.right - p) - (curve - prior)
        hessian = (data.terms * (p * (1 - p))[:, None]).T @ data.terms + np.eye(n_terms)
        free = ~(rising & (curve <= 0) & (gradient < 0))
        step = np.zeros(n_terms)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        moved = curve + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        moved[rising] = np.maximum(moved[rising], 0.0)
        if np.abs(moved - curve).max() < 1e-6:
            break
        curve = moved
    return curve


def _better_views(data: _Data, curve: np.ndarray, view_logits: np.ndarray, kernel: np.ndarray, prior: float) -> np.ndarray:
    """By pixel, how much more often poses are right near it than the curve says: a Newton step, shrunk towards 0."""
    p = sigmoid(data.terms @ curve + view_logits[data.pixel])
    surplus, information = (np.bincount(data.pixel, values, minlength=len(kernel)) for values in (data.right - p, p * (1 - p)))
    return view_logits + (kernel @ surplus - prior * view_logits) / (kernel @ information + prior)


@cache
def _kernel(symmetry: str, width_degs: float) -> np.ndarray:
    """Weights `(192, 192)` of one view's particles for another: 1 for the same view and for those that symmetry makes alike."""
    directions, width = healpix_directions(VIEW_ORDER).numpy(), np.radians(width_degs)
    cosine = np.full((len(directions),) * 2, -1.0)
    for element in point_group(symmetry).matrices.numpy():
        cosine = np.maximum(cosine, directions @ element @ directions.T)
    return np.exp((cosine - 1) / width**2)


def _scale_of(fit: np.ndarray) -> tuple[float, float]:
    values = artanh(fit)
    return float(values.mean()), float(max(values.std(), 1e-3))


def _log_loss(right: np.ndarray, logits: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - right * logits))
