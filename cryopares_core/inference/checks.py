"""Whether a model and new particles fit each other."""

from __future__ import annotations

import numpy as np

from cryopares_core.config.point_groups import group_name
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.preprocess import MASK_EDGE_PX
from cryopares_core.particles.table import ParticleTable

COARSER_TOLD, COARSER_REFUSED = 1.01, 1.1  # pixel size over that of the model
SMALLER_TOLD, SMALLER_REFUSED = 0.98, 0.75  # box over the diameter of the model's mask
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
    problems, remarks = _sampling(table, card)
    more_problems, more_remarks = _box(table, card)
    return problems + more_problems, remarks + more_remarks + _corrected_before(table, card)


def _sampling(table: ParticleTable, card: ModelCard) -> tuple[list[str], list[str]]:
    pixel, wanted = float(table.pixel_size_angs.max()), card.sampling_rate_angs
    if pixel <= COARSER_TOLD * wanted:
        return [], []
    told = f"The pictures' pixels, {pixel:.4g} Å, are coarser than those that the model was trained at, {wanted:.4g} Å."
    if pixel > COARSER_REFUSED * wanted:
        return [f"{told} Extract the particles again with pixels of {wanted:.4g} Å or less, or train a model at {pixel:.4g} Å."], []
    return [], [told]


def _box(table: ParticleTable, card: ModelCard) -> tuple[list[str], list[str]]:
    extent = float((table.image_size_px * table.pixel_size_angs).min())
    radius = mask_radius_angs(card)
    if extent >= SMALLER_TOLD * 2 * radius:
        return [], []
    told = f"The pictures' boxes, {extent:.4g} Å, are smaller than the disc of {2 * radius:.4g} Å in which the model looks."
    if extent < SMALLER_REFUSED * 2 * radius:
        return [f"{told} Extract the particles again in larger boxes, or train a model with a smaller mask or box."], []
    return [], [f"{told} What lies outside counts as background."]


def mask_radius_angs(card: ModelCard) -> float:
    """How far from the centre a model looks."""
    return card.preparation.mask_radius_angs or (card.image_size_px / 2 - MASK_EDGE_PX) * card.sampling_rate_angs


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
