"""Whether a model and new particles fit each other: for `cryopares_infer` and for Scipion's form. One sentence for each misfit."""

from typing import List, NamedTuple, Optional

COARSER_TOLD, COARSER_REFUSED = 1.01, 1.1  # pixel size over that of the model
SMALLER_TOLD, SMALLER_REFUSED = 0.98, 0.75  # box over the diameter of the model's mask
MASK_EDGE_PX = 3.0  # that the largest mask leaves between itself and the box


class Misfits(NamedTuple):
    """What makes a model useless for particles, and what is only suspicious."""

    problems: List[str]
    remarks: List[str]


def misfits(pixel_angs: float, box_angs: float, model_pixel_angs: float, disc_angs: float) -> Misfits:
    """Of the particles' coarsest pixels and smallest box, against a model's pixels and the diameter of the disc it looks at."""
    sampling, box = sampling_misfits(pixel_angs, model_pixel_angs), box_misfits(box_angs, disc_angs)
    return Misfits(sampling.problems + box.problems, sampling.remarks + box.remarks)


def sampling_misfits(pixel_angs: float, model_pixel_angs: float) -> Misfits:
    """Pixels that are coarser than those of the training."""
    if pixel_angs <= COARSER_TOLD * model_pixel_angs:
        return Misfits([], [])
    told = (
        f"The pictures' pixels, {pixel_angs:.4g} Å, are coarser than those that the model was trained at, {model_pixel_angs:.4g} Å."
    )
    if pixel_angs <= COARSER_REFUSED * model_pixel_angs:
        return Misfits([], [told])
    remedy = f"Extract the particles again with pixels of {model_pixel_angs:.4g} Å or less, or train a model at {pixel_angs:.4g} Å."
    return Misfits([f"{told} {remedy}"], [])


def box_misfits(box_angs: float, disc_angs: float) -> Misfits:
    """Boxes that are smaller than the disc in which the model looks."""
    if box_angs >= SMALLER_TOLD * disc_angs:
        return Misfits([], [])
    told = f"The pictures' boxes, {box_angs:.4g} Å, are smaller than the disc of {disc_angs:.4g} Å in which the model looks."
    if box_angs >= SMALLER_REFUSED * disc_angs:
        return Misfits([], [f"{told} What lies outside counts as background."])
    return Misfits([f"{told} Extract the particles again in larger boxes, or train a model with a smaller mask or box."], [])


def disc_radius_angs(mask_radius_angs: Optional[float], box_px: int, pixel_angs: float) -> float:
    """How far from the centre a model looks: its mask's radius, else the largest that its box holds."""
    return mask_radius_angs or (box_px / 2 - MASK_EDGE_PX) * pixel_angs
