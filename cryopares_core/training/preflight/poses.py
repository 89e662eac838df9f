"""Whether poses and CTFs explain the pictures: a map of one half set's pictures, held against those of the other half set.

Each picture is correlated with the map's projection at its own pose, and with that at the pose of another particle. Where poses say
something, the first correlation is higher. Nothing here tells a map from its mirror image: both explain the pictures alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import matrix_to_euler_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.particles.preprocess import PreprocessSettings, circular_mask
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight.sample import Sample
from cryopares_core.training.pretraining import SimulatedMap
from cryopares_core.training.starting_map import KnownParticles, StartingMap, make_starting_map
from cryopares_core.volumes.views import ViewSimulator

MOST_FOR_MAP, MOST_JUDGED, FEWEST = 1500, 500, 20
PORTION = 100
CLEAR, NOTHING = 6.0, 3.0  # standard errors
PARTICLE, BORDER_PX = 0.35, 2  # of the box: where the particle lies
CLEARLY_DARK = -0.3  # of the map's own skewness and level
NO_NOISE = 1e12
Expected = Callable[[Tensor, Tensor], Tensor]


class Fit(NamedTuple):
    """Correlations of pictures with what a map says that they show, at their own poses and at those of others, each `(n,)`."""

    own: Tensor
    other: Tensor

    @property
    def gain(self) -> float:
        """How much higher the correlation at own poses is."""
        return float((self.own - self.other).mean())

    @property
    def z(self) -> float:
        """The mean difference in standard errors."""
        return z_score(self.own - self.other)

    @property
    def share_better(self) -> float:
        """How many pictures fit better at their own pose; a half of them by chance."""
        return float((self.own > self.other).float().mean())


@dataclass(frozen=True)
class PoseLook:
    """What the quick reconstruction tells.

    Attributes
    ----------
    fit : of the map of half set 1 to pictures of half set 2
    flipped_z : how much better they fit if their phases had been flipped before, in standard errors
    by_group : for each optics group the mean correlation at own poses in standard errors
    made : the map
    map_seconds : that making and judging it took, for each of its pictures
    """

    fit: Fit
    flipped_z: float
    by_group: dict[str, float]
    made: StartingMap
    map_seconds: float


def look_at_poses(sample: Sample, plan: Plan) -> PoseLook | None:
    """None where no CTFs are known, or particles are too few."""
    made_of, judged = sample.of_half(1)[:MOST_FOR_MAP], sample.of_half(2)
    judged = judged[torch.linspace(0, len(judged) - 1, min(len(judged), MOST_JUDGED)).long()] if len(judged) else judged
    if not sample.known.ctf.known or min(len(made_of), len(judged)) < FEWEST:
        return None
    started = time.perf_counter()
    made, fit = _fit_of_map(sample.known, made_of, judged, plan.preprocessing, plan)
    seconds = (time.perf_counter() - started) / len(made_of)
    _, flipped = _fit_of_map(sample.known, made_of, judged, FlippedBefore(**asdict(plan.preprocessing)), plan)
    return PoseLook(fit, z_score(flipped.own - fit.own), z_by_group(sample, judged, fit.own), made, seconds)


def _fit_of_map(
    known: KnownParticles, made_of: Tensor, judged: Tensor, settings: PreprocessSettings, plan: Plan
) -> tuple[StartingMap, Fit]:
    made = make_starting_map(known, made_of, judged, settings, point_group(plan.symmetry).matrices, plan.device)
    return made, fit_to(known, judged, made.expected, _disc(plan), plan.device)


@dataclass(frozen=True)
class FlippedBefore(PreprocessSettings):
    """What preparation leaves of the CTF if pictures came with their phases flipped and the file doesn't say so, or the reverse."""

    def transfer(self, ctf: CtfTensors, planes: Tensor) -> Tensor:
        return super().transfer(ctf, planes) * torch.where(planes < 0, -1.0, 1.0)[:, None]


def fit_to(known: KnownParticles, ids: Tensor, expected: Expected, disc: Tensor, device: torch.device) -> Fit:
    """Correlate pictures with expected ones `(b, c, s, s)`, which `expected` gives for particles and pose matrices, in the disc."""
    shuffled = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    ids = ids[shuffled]  # neighbours may be seen from the same side
    own, other = list[Tensor](), list[Tensor]()
    for part, others in zip(ids.split(PORTION), ids.roll(1).split(PORTION), strict=True):
        pictures = known.images[part].to(device).float()
        for values, poses_of in ((own, part), (other, others)):
            values.append(_correlation(pictures, expected(part.to(device), known.poses(poses_of, device)), disc))
    back = torch.argsort(shuffled)
    return Fit(torch.cat(own).cpu()[back], torch.cat(other).cpu()[back])


def _correlation(first: Tensor, second: Tensor, disc: Tensor) -> Tensor:
    """Of pictures `(b, c, s, s)` within the disc, `(b,)`; 0 where one shows nothing."""
    inside = disc > 0
    first, second = (x[..., inside] - x[..., inside].mean(dim=-1, keepdim=True) for x in (first, second))
    power = first.square().sum(dim=(1, 2)) * second.square().sum(dim=(1, 2))
    return (first * second).sum(dim=(1, 2)) / power.sqrt().clamp(min=1e-12)


def z_score(values: Tensor) -> float:
    """The mean in standard errors; 0 where there is nothing to tell."""
    error = float(values.double().std()) / math.sqrt(max(1, len(values))) if len(values) > 1 else 0.0
    return float(values.double().mean()) / error if error > 0 else 0.0


def _disc(plan: Plan) -> Tensor:
    size = plan.image_size_px
    radius = min(size / 2 - BORDER_PX, (plan.preprocessing.mask_radius_angs or math.inf) / plan.sampling_rate_angs)
    return circular_mask(size, radius, device=plan.device)


def z_by_group(sample: Sample, ids: Tensor, values: Tensor) -> dict[str, float]:
    """Means of values `(k,)` of particles `ids` in standard errors, for each optics group that has enough of them."""
    if "rlnOpticsGroup" not in sample.table.particles:
        return {}
    groups = sample.table.particles["rlnOpticsGroup"].to_numpy()[ids.numpy()]
    members = {str(group): torch.from_numpy(groups == group) for group in sorted(set(groups))}
    return {group: z_score(values[chosen]) for group, chosen in members.items() if chosen.sum() >= FEWEST}


def fit_of_given_map(sample: Sample, plan: Plan, given: SimulatedMap) -> Fit | None:
    """How pictures fit a map of the user's at their poses; None where no CTFs are known, or particles are too few."""
    ids = torch.arange(len(sample.table))
    ids = ids[torch.linspace(0, len(ids) - 1, min(len(ids), MOST_JUDGED)).long()]
    if not sample.known.ctf.known or len(ids) < FEWEST:
        return None
    views = ViewSimulator(given.volume, given.pixel_size_angs, plan.preprocessing, sample.known.ctf, plan.device)

    def expected(part: Tensor, poses: Tensor) -> Tensor:
        return views.pictures(matrix_to_euler_degs(poses.double()).float(), views.chosen_ctf(part.cpu()), NO_NOISE, [0] * len(part))

    return fit_to(sample.known, ids, expected, _disc(plan), plan.device)


def disc_level(images: Tensor) -> Tensor:
    """How much brighter the middle of prepared pictures `(n, c, s, s)` is than their background, in its deviations, `(n,)`."""
    inside = circular_mask(images.shape[-1], PARTICLE * images.shape[-1]) > 0
    return images[:, 0].float()[:, inside].mean(dim=1)


def is_dark(volume: Tensor) -> bool:
    """Whether a map `(s, s, s)` shows a particle of less density than what lies around it."""
    size = len(volume)
    axis = (torch.arange(size) - size // 2).to(volume)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    inside = volume[radius < size / 2 - BORDER_PX]
    deviation = inside.std().clamp(min=1e-12)
    skewness = ((inside - inside.mean()) / deviation).pow(3).mean()
    level = volume[radius < PARTICLE * size].mean() / deviation
    return bool(skewness < CLEARLY_DARK and level < CLEARLY_DARK)
