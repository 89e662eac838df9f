"""What pixel size, box and mask suit a particle, and the memory that they take. Rules of thumb: a user may know better."""

import math
from dataclasses import dataclass
from typing import List, Tuple

# Pixel sizes that work for most proteins. Between them, the finest whose box stays small enough to train fast is proposed.
FINEST_ANGS, COARSEST_ANGS = 1.5, 3.0
COMFORTABLE_BOX_PX = 160
PADDING = 1.25  # of the particle's diameter: room for shifts and for what the CTF spreads
MASK_MARGIN = 1.1
STEP_ANGS = 0.05
SMALLEST_BOX_PX = 16
BYTES_PER_PIXEL = 2  # the prepared pictures are float16
# Counted on the default network (U-Net, lmax 12) in bfloat16: what a training step keeps of each picture until its gradients
# are made, a part of its own and one for each pixel; tests/test_advice.py counts again.
KEPT_BYTES, KEPT_BYTES_PER_PIXEL = 10.8e6, 240.0


@dataclass(frozen=True)
class Proposal:
    """Settings for a particle, with remarks on them."""

    sampling_rate_angs: float
    image_size_px: int
    mask_radius_angs: float
    remarks: Tuple[str, ...] = ()


def propose(diameter_angs: float, pixel_size_angs: float, box_px: int) -> Proposal:
    """Settings for a particle of a diameter, from pictures of a pixel size and box.

    The box holds the particle with a quarter to spare, is even and has small prime factors. Pictures are never made finer or
    larger than they are.
    """
    wanted_angs, has_angs = PADDING * diameter_angs, box_px * pixel_size_angs
    pixel = sampling_for(wanted_angs, pixel_size_angs)
    box = good_box_above(wanted_angs / pixel)
    if box * pixel > has_angs:
        box = good_box_below(has_angs / pixel)
    radius = min(MASK_MARGIN * diameter_angs / 2, box * pixel / 2)
    return Proposal(pixel, box, round(radius, 1), tuple(remarks(diameter_angs, pixel, box, pixel_size_angs, box_px)))


def sampling_for(extent_angs: float, pixel_size_angs: float) -> float:
    """The pixel size for boxes of an extent, in steps of 0.05 Å; that of the pictures where it is no finer."""
    ideal = min(max(extent_angs / COMFORTABLE_BOX_PX, FINEST_ANGS), COARSEST_ANGS)
    stepped = round(math.ceil(ideal / STEP_ANGS - 1e-6) * STEP_ANGS, 2)
    return stepped if stepped > (1 + STEP_ANGS) * pixel_size_angs else pixel_size_angs


def remarks(diameter_angs: float, pixel_angs: float, box_px: int, own_pixel_angs: float, own_box_px: int) -> List[str]:
    """What is to be said of such settings for pictures of their own pixel size and box, a sentence each."""
    found, extent, own_extent = [], box_px * pixel_angs, own_box_px * own_pixel_angs
    if own_extent < PADDING * diameter_angs:
        found.append(
            f"The particles' own box of {own_extent:.0f} Å leaves little room around {diameter_angs:.0f} Å: extract them with a "
            "larger one."
        )
    elif extent < diameter_angs:
        found.append(f"The box of {extent:.0f} Å is smaller than the particle.")
    if extent > 1.01 * own_extent:
        found.append(f"The box of {extent:.0f} Å is larger than the pictures ({own_extent:.0f} Å): it is filled up with zeros.")
    if pixel_angs < 0.99 * own_pixel_angs:
        found.append(f"Finer than the pictures' own {own_pixel_angs:.3g} Å: this costs memory and shows nothing more.")
    elif pixel_angs > COARSEST_ANGS:
        found.append(f"{pixel_angs:.3g} Å is coarse: {FINEST_ANGS} to {COARSEST_ANGS:.1f} Å work well for most proteins.")
    if not has_small_factors(box_px) or box_px % 2:
        found.append(f"{box_px} px is odd or has large prime factors: {good_box_above(box_px)} px is faster.")
    return found


def good_box_above(least_px: float) -> int:
    """The smallest even box of no less than so many pixels with no prime factor over 5."""
    box = max(SMALLEST_BOX_PX, 2 * math.ceil(least_px / 2 - 1e-6))
    while not has_small_factors(box):
        box += 2
    return box


def good_box_below(most_px: float) -> int:
    """The largest such box of no more than so many pixels, but not under 16."""
    box = max(SMALLEST_BOX_PX, 2 * math.floor(most_px / 2 + 1e-6))
    while not has_small_factors(box):
        box -= 2
    return box


def has_small_factors(number: int) -> bool:
    """Whether a number is a product of 2s, 3s and 5s alone."""
    for factor in (2, 3, 5):
        while number > 1 and number % factor == 0:
            number //= factor
    return number == 1


def store_bytes(n_particles: int, box_px: int, channels: int = 1) -> int:
    """Memory that the prepared pictures take, for all half sets together."""
    return n_particles * channels * box_px**2 * BYTES_PER_PIXEL


def step_bytes(batch_size: int, box_px: int) -> float:
    """What a training step of the default network keeps of its pictures; weights, their optimiser and CUDA come on top."""
    return batch_size * (KEPT_BYTES + KEPT_BYTES_PER_PIXEL * box_px**2)
