"""A point group applied to the sums of slices, as if each picture had been added from all directions that look the same.

It costs a few passes over the grid, however many pictures there are; adding them all |G| times would cost |G| times as much.
Elements that take the grid to itself (turns by quarters and halves about its axes, by thirds about its diagonals) are exact. Of
the others one for each coset is needed; it interpolates the sums once more, which is a second falloff of known size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.volumes.fourier_sums import BLOCK, FourierSums
from cryopares_core.volumes.threads import in_threads

EXACT = 1e-6


def symmetrise(sums: FourierSums, group: Tensor, workers: int = 1) -> None:
    """Replace sums `S(q)` by the sum over a point group of `S(g q)`.

    Parameters
    ----------
    sums : with mates joined
    group : `(g, 3, 3)` matrices, all of a group, the identity first
    workers : threads
    """
    if len(group) == 1:
        return
    first, *others = steps(group)
    sums.blurred = _blurred(first)
    for elements in (first, *others):
        if len(elements) > 1:
            _sum_over(sums, elements.float().to(sums.weights.device), workers)


def steps(group: Tensor) -> list[Tensor]:
    """Sets of elements `(m, 3, 3)` whose products, one of each set in order, give each element of the group once.

    In the first set are those that do not take the grid to itself, in the others only such that do. A group has cosets of each of
    its subgroups: the sets are those along a chain of subgroups, which are far fewer than the group's elements.
    """
    products = _product_table(group)
    on_grid = {number for number, whole in enumerate(_whole_rows(group).all(dim=1).tolist()) if whole}
    chain = [{0}]
    while chain[-1] != on_grid:
        larger = [_generated(chain[-1] | {number}, products) for number in sorted(on_grid - chain[-1])]
        chain.append(min(larger, key=len))
    chain.append(set(range(len(group))))
    return [group[_cosets(large, small, products)] for small, large in zip(chain[-2::-1], chain[:0:-1], strict=True)]


def _product_table(group: Tensor) -> list[list[int]]:
    """The number of the element that is the product of elements i and j."""
    products = (group[:, None] @ group).flatten(2)
    return (products @ group.flatten(1).T).argmax(dim=-1).tolist()  # the trace of A^T B is largest where A = B


def _generated(elements: set[int], products: list[list[int]]) -> set[int]:
    """The subgroup that some elements generate."""
    while True:
        grown = elements | {products[a][b] for a in elements for b in elements}
        if len(grown) == len(elements):
            return grown
        elements = grown


def _cosets(group: set[int], subgroup: set[int], products: list[list[int]]) -> list[int]:
    """One element of each coset `c K` of a subgroup K, the identity first."""
    left, chosen = set(group), []
    while left:
        chosen.append(min(left))
        left -= {products[chosen[-1]][element] for element in subgroup}
    return chosen


def _whole_rows(matrices: Tensor) -> Tensor:
    """Which coordinates, x, y and z, are whole numbers for all whole points: `(m, 3)`."""
    return ((matrices - matrices.round()).abs() < EXACT).all(dim=2)


def _blurred(elements: Tensor) -> dict[tuple[bool, bool, bool], float]:
    """By axes along which elements interpolate, the share of the elements that do.

    Strictly these are axes of the turned grid; but as far as x^2 goes, the falloff along two or three axes is the same for all
    turns among them.
    """
    shares: dict[tuple[bool, bool, bool], float] = {}
    for x, y, z in (~_whole_rows(elements)).tolist():
        shares[x, y, z] = shares.get((x, y, z), 0.0) + 1 / len(elements)
    return shares


def _sum_over(sums: FourierSums, elements: Tensor, workers: int) -> None:
    """One step: `S(q)` becomes the sum of `S(g q)` over some elements, of which the identity is the first.

    Places beyond `reach` become 0.
    """
    values, weights = torch.zeros_like(sums.values), torch.zeros_like(sums.weights)
    rows = torch.arange(2 * sums.reach + 1, device=elements.device) - sums.reach
    y, x = torch.meshgrid(rows, rows[sums.reach :], indexing="ij")
    height, width = sums.shape[1:]
    in_plane = (y + sums.reach) * width + x

    def one_plane(z: int) -> None:
        inside = x**2 + y**2 <= sums.reach**2 - z**2
        places = in_plane[inside] + (z + sums.reach) * height * width
        points = torch.stack((x[inside], y[inside], torch.full_like(places, z))).float()
        for start in range(0, len(places), BLOCK):
            part = slice(start, start + BLOCK)
            value, weight = (grid.index_select(0, places[part]) for grid in (sums.values, sums.weights))
            for element in elements[1:]:
                more, more_weight = _sampled(sums, element @ points[:, part])
                value += more
                weight += more_weight
            values.index_copy_(0, places[part], value)
            weights.index_copy_(0, places[part], weight)

    in_threads(one_plane, rows.tolist(), workers)
    sums.values, sums.weights = values, weights


def _sampled(sums: FourierSums, points: Tensor) -> tuple[Tensor, Tensor]:
    """Both sums at points `(3, k)`, by linear interpolation: `(k,)` each."""
    sign = torch.where(points[0] < 0, -1.0, 1.0)
    places, shares = sums.corners(points * sign)
    values, weights = (grid.index_select(0, places.view(-1)).view(8, -1) for grid in (sums.values, sums.weights))
    real, imaginary = (values.real * shares).sum(dim=0), (values.imag * shares).sum(dim=0)
    return torch.complex(real, imaginary * sign), (weights * shares).sum(dim=0)
