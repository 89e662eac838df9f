"""Two sets of poses of the same particles against each other: distances under a point group, and a turn of the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import rotation_angle_degs

CANDIDATES, SAMPLE = 64, 1000  # particles whose own turn is tried, and those on which it is tried
ROUNDS = 4
NEAR = 2.0  # in medians: what lies further off is taken for wrong


def mirrored(poses: Tensor) -> Tensor:
    """The poses `(n, 3, 3)` at which the mirror image (z to -z) of a reference shows the same pictures."""
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=poses.dtype, device=poses.device)
    return signs[:, None] * poses * signs


def nearest_mates(first: Tensor, second: Tensor, group: Tensor) -> Tensor:
    """For pairs of poses `(n, 3, 3)` the numbers of elements g of a group `(g, 3, 3)` that bring `second g` nearest to `first`."""
    # The trace of first^T second g is the larger, the smaller the angle between them.
    difference = first.mT @ second
    return (difference.mT.flatten(1) @ group.flatten(1).T).argmax(dim=1)


def distances_degs(first: Tensor, second: Tensor, group: Tensor) -> Tensor:
    """Geodesic distances of pairs of poses `(n, 3, 3)` in degrees, the smallest over a group `(g, 3, 3)`: `(n,)`."""
    mates = group[nearest_mates(first, second, group)]
    return rotation_angle_degs(first.mT @ (second @ mates))


def common_turn(first: Tensor, second: Tensor, group: Tensor) -> Tensor:
    """The turn Q `(3, 3)` of the reference that makes `first Q` nearest to `second`, both `(n, 3, 3)` float64.

    Particles drawn at random each tell a turn; that with the smallest median distance is made better by least squares over the
    particles that agree with it (Kabsch 1976, doi:10.1107/S0567739476001873).
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(len(first), generator=generator)
    tried, sample = drawn[:CANDIDATES], drawn[:SAMPLE]
    turns = first[tried].mT @ second[tried]
    medians = [distances_degs(first[sample] @ turn, second[sample], group).median() for turn in turns]
    best = turns[int(torch.stack(medians).argmin())]
    for _ in range(ROUNDS):
        best = _refined(first, second, group, best)
    return best


def _refined(first: Tensor, second: Tensor, group: Tensor, turn: Tensor) -> Tensor:
    mates = second @ group[nearest_mates(first @ turn, second, group)]
    distance = rotation_angle_degs((first @ turn).mT @ mates)
    near = distance <= NEAR * distance.median()
    u, _, vh = torch.linalg.svd((first[near].mT @ mates[near]).sum(dim=0))
    return u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vh).sign())], dtype=u.dtype)) @ vh
