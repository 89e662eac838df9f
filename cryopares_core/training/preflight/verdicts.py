"""What looks at pictures and poses mean, in words."""

from __future__ import annotations

import torch

from cryopares_core.particles.table import FLIPPED
from cryopares_core.training.curriculum import FIRST_SNR
from cryopares_core.training.preflight.findings import PICTURES, POSES, Findings
from cryopares_core.training.preflight.poses import CLEAR, NOTHING, Fit, PoseLook, disc_level, is_dark, z_by_group, z_score
from cryopares_core.training.preflight.sample import Sample

STANDS = 0.5  # of what a map of the pictures themselves explains
INVERTED = (
    "The particles are dark on a bright background (measured on {}); white on dark is expected. Invert the stacks "
    "(relion_preprocess --invert_contrast, or 'relion - preprocess particles' in Scipion), here and wherever the model is used."
)
POSES_SAY_NOTHING = (
    "The poses say nothing about the pictures ({}). Do the rows belong to these stacks, and come from a 3D refinement "
    "(run_data.star)? If so, look at CTF, pixel size and symmetry, or give more particles."
)
DOES_NOT_STAND = (
    "the map does not stand as the particles' poses say: it explains {:.0%} of what a map of the pictures themselves does. What is "
    "learned from its views would have to be unlearned. Take the map of the refinement that gave the poses."
)


def tell_of_pictures(found: Findings, sample: Sample, look: PoseLook | None, n_particles: int) -> None:
    """Contrast, and CTFs that were corrected before."""
    levels = disc_level(sample.known.images)
    level = z_score(levels)
    found.measured["disc_z"] = round(level, 1)
    explained = look is not None and look.fit.z > CLEAR
    warnings = _groups(z_by_group(sample, torch.arange(len(levels)), levels), {} if look is None else look.by_group)
    if look is not None and explained and is_dark(look.made.volume):
        warnings.append(INVERTED.format("a map made of them"))
    elif not explained and level < -CLEAR:
        warnings.append(INVERTED.format("the middle of the pictures"))
    if look is not None:
        warnings += _flipped(look, bool((sample.table.ctf.corrected == FLIPPED).any()))
    found.warn(PICTURES, warnings)
    if not warnings:
        contrast = "Particles are bright on dark, as expected." if explained or level > CLEAR else "Their contrast is not clear."
        found.ok(PICTURES, f"{len(sample.table):,} of {n_particles:,} pictures looked at, none flat or broken. {contrast}")


def _groups(by_disc: dict[str, float], by_map: dict[str, float]) -> list[str]:
    """Optics groups whose pictures are the negative of the others'. A map of as many of both kinds shows nothing, but discs do."""
    mixed = max(by_disc.values(), default=0.0) > CLEAR
    negative = [group for group, z in by_map.items() if z < -CLEAR] or [
        group for group, z in by_disc.items() if mixed and z < -CLEAR
    ]
    if not negative:
        return []
    return [
        f"The pictures of optics group {', '.join(negative)} have the opposite contrast of the others. Invert them, so that all "
        "particles are white on dark."
    ]


def _flipped(look: PoseLook, said: bool) -> list[str]:
    """Where the file is wrong about the pictures' phases. `said`: whether it says of any that they are flipped."""
    if look.flipped_z < CLEAR:
        return []
    better = f"they fit better so by {look.flipped_z:.0f} standard errors"
    if said:
        return [
            f"data_optics says that the pictures' phases are flipped already, and they seem not to be ({better}). Set "
            "rlnCtfDataArePhaseFlipped to 0 there, or import them into Scipion as not phase flipped."
        ]
    return [
        f"The pictures' phases seem to be flipped already ({better}), and would be flipped twice. If so, set "
        "rlnCtfDataArePhaseFlipped to 1 in data_optics, or import them into Scipion as phase flipped; here and wherever the model "
        "is used."
    ]


def tell_of_poses(found: Findings, look: PoseLook | None) -> None:
    """Whether the poses explain the pictures."""
    if look is None:
        found.ok(POSES, "Not judged: no CTFs are known, or there are fewer than 20 particles in a half set.")
        return
    fit, made = look.fit, look.made
    found.measured.update(
        pose_z=round(fit.z, 1),
        pose_share_better=round(fit.share_better, 3),
        pose_agreement=round(made.agreement, 3),
        flipped_z=round(look.flipped_z, 1),
        snr=float(f"{made.snr:.3g}"),
    )
    figures = (
        f"z = {fit.z:.1f}; {fit.share_better:.0%} of {len(fit.own)} pictures fit a map of the other half better at their own pose"
    )
    figures += " than at another particle's"
    if fit.z < NOTHING:
        found.warn(POSES, [POSES_SAY_NOTHING.format(figures)])
    elif fit.z < CLEAR:
        found.warn(
            POSES, [f"The poses hardly explain the pictures ({figures}): the particles are few or noisy, or many poses are wrong."]
        )
    else:
        found.ok(POSES, f"The poses explain the pictures ({figures}). {_map_text(look)}")


def _map_text(look: PoseLook) -> str:
    snr = look.made.snr
    noise = "" if snr >= FIRST_SNR else f", signal-to-noise ratio about {snr:.2g}"
    return f"The sample's map: {look.made.resolution_angs:.3g} Å{noise}."


def tell_of_given_map(found: Findings, fit: Fit | None, own: Fit, path: str) -> None:
    """Whether the user's map stands where the poses say: whether it fits nearly as well as the map of the pictures themselves."""
    if fit is None:
        return
    share = fit.gain / own.gain
    found.measured["given_map_share"] = round(share, 3)
    if share < -STANDS:
        found.warn(
            POSES, [f"{path}: the map's contrast is the opposite of the pictures'. Invert the one that is not white on dark."]
        )
    elif share < STANDS:
        found.warn(POSES, [f"{path}: {DOES_NOT_STAND.format(max(0, share))}"])
    else:
        found.ok(POSES, f"{path} stands as the particles' poses say.")
