"""The part of the configuration tree that is about data augmentation."""

# ruff: noqa: RUF009 -- `param` and `section` return dataclass fields, made anew for each instance.

from dataclasses import dataclass
from typing import List, Optional

from cryopares_core.config.parameters import param, section


def _probability(default: float) -> float:
    probability: float = param(default, "probability", low=0.0, high=1.0)
    return probability


def _final() -> Optional[float]:
    final: Optional[float] = param(None, "p at the training's end, reached linearly; null keeps p", low=0.0, high=1.0)
    return final


@dataclass
class RandomGaussNoise:
    """Adds normal noise."""

    p: float = _probability(0.1)
    p_final: Optional[float] = _final()
    max_std: float = param(0.5, "most noise", unit="background std", low=0.0, high=10.0)


@dataclass
class RandomUnifNoise:
    """Adds uniform noise."""

    p: float = _probability(0.2)
    p_final: Optional[float] = _final()
    max_amplitude: float = param(0.5, "most noise", unit="background std", low=0.0, high=10.0)


@dataclass
class GaussianBlur:
    """Blurs."""

    p: float = _probability(0.2)
    p_final: Optional[float] = _final()
    max_sigma_px: float = param(1.0, "widest kernel", unit="px", low=0.0, high=20.0)


@dataclass
class SizePerturbation:
    """Scales."""

    p: float = _probability(0.2)
    p_final: Optional[float] = _final()
    max_change: float = param(0.05, "most change of scale", unit="fraction", low=0.0, high=0.5)


@dataclass
class Erasing:
    """Replaces a rectangle by the background."""

    p: float = _probability(0.1)
    p_final: Optional[float] = _final()
    max_side: float = param(0.25, "longest side", unit="fraction of the box", low=0.0, high=1.0)


@dataclass
class RandomElastic:
    """Bends."""

    p: float = _probability(0.1)
    p_final: Optional[float] = _final()
    max_shift_px: float = param(1.0, "largest displacement", unit="px", low=0.0, high=20.0)
    smoothness: float = param(0.1, "distance over which it varies", unit="fraction of the box", low=0.02, high=1.0)


@dataclass
class InPlaneRotations90:
    """Quarter turns."""

    p: float = _probability(1.0)
    p_final: Optional[float] = _final()


@dataclass
class InPlaneRotations:
    """Small turns."""

    p: float = _probability(0.5)
    p_final: Optional[float] = _final()
    max_angle_degs: float = param(20.0, "largest turn either way", unit="degrees", low=0.0, high=180.0)


@dataclass
class InPlaneShifts:
    """Small shifts."""

    p: float = _probability(0.5)
    p_final: Optional[float] = _final()
    max_shift: float = param(0.05, "largest shift either way", unit="fraction of the box", low=0.0, high=0.5)


@dataclass
class Operations:
    """The nine operations. Those that turn the picture turn its pose with it."""

    randomGaussNoise: RandomGaussNoise = section(RandomGaussNoise, "Gaussian noise", compact=True)
    randomUnifNoise: RandomUnifNoise = section(RandomUnifNoise, "Uniform noise", compact=True)
    gaussianBlur: GaussianBlur = section(GaussianBlur, "Gaussian blur", compact=True)
    sizePerturbation: SizePerturbation = section(SizePerturbation, "Changes of scale", compact=True)
    erasing: Erasing = section(Erasing, "Erased rectangles", compact=True)
    randomElastic: RandomElastic = section(RandomElastic, "Elastic deformation", compact=True)
    inPlaneRotations90: InPlaneRotations90 = section(InPlaneRotations90, "Turns by 90, 180 or 270°", compact=True)
    inPlaneRotations: InPlaneRotations = section(InPlaneRotations, "Small turns", compact=True)
    inPlaneShifts: InPlaneShifts = section(InPlaneShifts, "Small shifts", compact=True)


@dataclass
class Augmenter:
    """Which operations are applied, and how many."""

    prob_augment_each_image: float = param(
        0.95,
        "Probability that augmentation is applied to a picture at all.",
        low=0.0,
        high=1.0,
        label="Probability of augmentation",
    )
    prob_augment_each_image_final: Optional[float] = param(
        None,
        "That probability at the training's end, reached linearly; null keeps it.",
        low=0.0,
        high=1.0,
        advanced=True,
        label="Probability of augmentation at the end",
        null_label="the same",
    )
    min_n_augm_per_img: int = param(1, "Fewest operations on a picture.", low=0, high=9, label="Fewest operations")
    max_n_augm_per_img: int = param(8, "Most operations on a picture.", low=0, high=9, label="Most operations")
    operations: Operations = section(Operations, "Each operation has a probability p and a strength")

    def problems(self) -> List[str]:
        """Rules that tie several values together."""
        fewest, most = self.min_n_augm_per_img, self.max_n_augm_per_img
        if fewest <= most:
            return []
        return [
            f"datamanager.augmenter.min_n_augm_per_img={fewest} is more than "
            f"datamanager.augmenter.max_n_augm_per_img={most}: lower the first or raise the second."
        ]
