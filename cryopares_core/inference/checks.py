"""Whether a model and new particles fit each other."""

from __future__ import annotations

from cryopares_core.config.model_fit import disc_radius_angs, misfits
from cryopares_core.config.point_groups import group_name
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.table import MULTIPLIED, ParticleTable


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
    """Pictures whose CTF was corrected in a way that preparation does not make good for this model."""
    mode, corrected = card.preparation.ctf_mode, table.ctf.corrected
    if mode == "none" and corrected.any():
        return [
            "The pictures came CTF-corrected (data_optics says so), and the model looks at pictures as they come. If it was not "
            "trained on pictures like these, extract the particles again without correction."
        ]
    if mode != "ctf_multiply" and (corrected == MULTIPLIED).any():
        return [
            "The pictures came multiplied by their CTFs (rlnCtfDataAreCtfPremultiplied), which weakens what this model was trained "
            "to see. If it was not trained on pictures like these, extract the particles again without correction."
        ]
    return []
