"""Whether a model and new particles fit each other."""

from __future__ import annotations

import numpy as np

from cryopares_core.config.model_fit import disc_radius_angs, misfits
from cryopares_core.config.point_groups import group_name
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.table import ParticleTable

FLIPPED = ("rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied")


def symmetry_problems(expected: str | None, card: ModelCard) -> list[str]:
    """Whether the model has the symmetry that the user expects."""
    if expected is None or group_name(expected) == card.symmetry:
        return []
    return [
        f"--symmetry={expected}: the model was trained under {card.symmetry}. Leave --symmetry out to use it as it is, or train a "
        f"model under {group_name(expected)}."
    ]


def fit_problems(table: ParticleTable, card: ModelCard) -> tuple[list[str], list[str]]:
    """What makes a model useless for particles, and what is only suspicious; one sentence each."""
    pixel, box = float(table.pixel_size_angs.max()), float((table.image_size_px * table.pixel_size_angs).min())
    found = misfits(pixel, box, card.sampling_rate_angs, 2 * mask_radius_angs(card))
    return found.problems, found.remarks + _corrected_before(table, card)


def mask_radius_angs(card: ModelCard) -> float:
    """How far from the centre a model looks."""
    return disc_radius_angs(card.preparation.mask_radius_angs, card.image_size_px, card.sampling_rate_angs)


def _corrected_before(table: ParticleTable, card: ModelCard) -> list[str]:
    """Pictures whose CTF is corrected already, for a model that expects to see it."""
    if table.optics is None or card.preparation.ctf_mode == "none":
        return []
    for name in FLIPPED:
        if name in table.optics and (np.asarray(table.optics[name].astype(str)) == "1").any():
            return [
                f"The pictures are CTF-corrected already ({name} 1 in data_optics), and the model corrects them once more. "
                "If it was not trained on pictures like these, extract the particles again without correction."
            ]
    return []
