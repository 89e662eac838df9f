"""Point groups on RELION's axes: Cn and Dn have the n-fold on z, Dn a 2-fold on x; T a 3-fold on z; O a 4-fold on z; I is I2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cryopares_core.config.point_groups import group_name
from cryopares_core.geometry.rotations import rotvec_to_matrix

GOLDEN = (1 + math.sqrt(5)) / 2
# One generator a line: axis (x, y, z) and how many turns make the identity.
_PLATONIC = {
    "T": (((0, 0, 1), 3), ((0, math.sqrt(2 / 3), math.sqrt(1 / 3)), 2)),
    "O": (((0, 0, 1), 4), ((1, 1, 1), 3)),
    "I": (((0, 0, 1), 2), ((1, 0, GOLDEN), 5), ((1, 1, 1), 3)),
}


@dataclass(frozen=True)
class PointGroup:
    """A rotation group of the molecule: its name in RELION's spelling and its elements, `(order, 3, 3)` float64."""

    name: str
    matrices: Tensor

    @property
    def order(self) -> int:
        return len(self.matrices)


@lru_cache(maxsize=32)
def point_group(name: str) -> PointGroup:
    """The group of a name such as `C1`, `c5`, `D7`, `T`, `O`, `I` (the same as `I2`).

    Raises
    ------
    UserError : the name is no point group of RELION's, or one on other axes than those named above.
    """
    name = group_name(name)
    if name in _PLATONIC:
        return PointGroup(name, _closure(_PLATONIC[name]))
    fold = int(name[1:])
    generators = (((0, 0, 1), fold),) + ((((1, 0, 0), 2),) if name[0] == "D" else ())
    return PointGroup(name, _closure(generators))


def _closure(generators: tuple) -> Tensor:
    """All products of the generators, the identity first."""
    steps = [_generator(axis, fold) for axis, fold in generators]
    elements = torch.eye(3, dtype=torch.float64)[None]
    while True:
        products = torch.cat([elements] + [elements @ step for step in steps])
        grown = _distinct(products)
        if len(grown) == len(elements):
            return grown
        elements = grown


def _generator(axis: tuple[float, float, float], fold: int) -> Tensor:
    direction = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    return rotvec_to_matrix(direction * (2 * math.pi / fold))


def _distinct(matrices: Tensor) -> Tensor:
    """The matrices without repetitions, in the order of their first appearance."""
    gap = (matrices[:, None] - matrices[None]).abs().amax(dim=(-1, -2))
    first = (gap < 1e-6).to(torch.uint8).argmax(dim=1)
    return matrices[first == torch.arange(len(matrices))]
