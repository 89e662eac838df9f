"""What a model is, in plain words, for whoever gets its file."""

from __future__ import annotations

from cryopares_core.config.model_fit import COARSER_REFUSED, SMALLER_REFUSED
from cryopares_core.inference.checks import mask_radius_angs
from cryopares_core.inference.models import TrainedModel

CTF_WORDS = {
    "phase_flip": "their phases are flipped",
    "none": "they are left as they are",
    "concat_phase_flip": "the network sees them as they are and with their phases flipped",
    "ctf_multiply": "they are multiplied by their CTF",
}


def readme(models: dict[str, TrainedModel]) -> str:
    """The text of `README.txt`."""
    card = next(iter(models.values())).card
    extent, diameter = card.image_size_px * card.sampling_rate_angs, 2 * mask_radius_angs(card)
    smallest = SMALLER_REFUSED * diameter
    lines = [
        "CryoPARES model",
        "===============",
        "",
        "It finds the poses of cryo-EM particles of the molecule that it was trained on, or of nearly the same one.",
        "",
        f"Symmetry: {card.symmetry}, on RELION's axes.",
        f"Pictures: particles white on dark, centred to within some pixels. They are brought to {card.sampling_rate_angs:.4g} Å/px "
        f"and {card.image_size_px} px ({extent:.4g} Å) first, and for the CTF {CTF_WORDS[card.preparation.ctf_mode]}.",
        f"Pixels may be up to {COARSER_REFUSED * card.sampling_rate_angs:.3g} Å, and boxes must be {smallest:.4g} Å or more; the "
        f"network looks at a disc of {diameter:.4g} Å.",
        "",
        *[line for name, model in models.items() for line in _of_one(name, model)],
        "To use it:",
        "    cryopares_infer --particles_star_fname particles.star --checkpoint_dir THIS_FILE --results_dir out",
        "    cryopares_export_model --import THIS_FILE --out_dir model     (unpacks it: a folder to infer with, or to fine-tune)",
        "",
    ]
    return "\n".join(lines)


def _of_one(name: str, model: TrainedModel) -> list[str]:
    """Paragraph of one model."""
    training, calibration = model.card.training, model.calibration
    best = training.get("best", {})
    lines = [f"{name}:"]
    if "n_train" in training:
        lines.append(f"    trained on {training['n_train']:,} particles; {training.get('n_val', 0):,} others were held out")
    if "val_median_geo_degs" in best:
        lines.append(
            f"    error on those held out: median {best['val_median_geo_degs']:.2f}°, mean {best['val_geo_degs']:.2f}°, "
            f"{best.get('val_share_under_5_degs', 0):.0%} under 5° (epoch {best.get('epoch')} of {training.get('epochs')})"
        )
    if calibration is None:
        lines.append("    confidence is not calibrated")
    else:
        gap = 100 * calibration.right.gap_after
        lines.append(f"    confidence is calibrated on {calibration.n:,} particles, and {gap:.0f} points off on average")
    return [*lines, ""]
