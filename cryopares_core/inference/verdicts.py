"""What the user is told of a map that the images do not show, or that the network contradicts."""

from __future__ import annotations

import logging

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.geometry.ball import ball_quadrature
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.search.judge import MIN_IMAGES, MapVerdict

logger = logging.getLogger(__name__)
MIN_RATIO = 1.5  # of the network's probability of a pose to that of chance


def report_agreement(network_mass: np.ndarray, symmetry: str) -> None:
    """Warn where the network finds the poses no likelier than chance: a map of the wrong hand has the same projections, so that the
    images alone cannot tell it, but the network has learned the right one.

    Parameters
    ----------
    network_mass : `(n,)` the network's probability within 5 degrees of the poses found; nan where it was not asked
    """
    known = network_mass[np.isfinite(network_mass)]
    by_chance = point_group(symmetry).order * float(ball_quadrature(GOOD_DEGS)[1].sum())
    if len(known) < MIN_IMAGES or np.median(known) >= MIN_RATIO * by_chance:
        return
    logger.warning(
        "Network and map contradict each other: the network gives the poses that the map finds no more probability than chance. "
        "The map may have the wrong hand or another orientation than the training particles, or the network does not know these "
        "images. Compare the map with training_map.mrc of the model"
    )


def report_verdict(verdict: MapVerdict) -> None:
    """Warn where the images do not show the map.

    Raises
    ------
    UserError : they show its negative
    """
    if verdict.is_inverted:
        raise UserError(
            "The images show the negative of the map: one of them has inverted contrast. Particles must be white on dark, and the "
            "density of the map positive."
        )
    if verdict.is_doubtful:
        logger.warning(
            "The images do not show the map: only %.0f %% of the fit holds at frequencies that the search did not use. The map may "
            "be of another molecule or have a wrong pixel size, or the images are too noisy. The poses, and a map made of them, "
            "may mean nothing: half maps aligned to the same wrong map correlate with each other",
            100 * max(0.0, verdict.free_share),
        )
    elif np.isfinite(verdict.free_share):
        logger.info(
            "The images show the map: %.0f %% of the fit holds at frequencies that the search did not use (%d images)",
            *(100 * min(1.0, verdict.free_share), verdict.n_images),
        )
