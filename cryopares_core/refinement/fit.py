"""How well pictures fit a map at some poses and shifts, and where a better fit lies.

The measure is the correlation of a picture with what the map shows, weighted by the noise: `f = <X, M> / |M|` over the frequencies,
where picture X and model `M = c F(A^T k) exp(2 pi i k t)` are both divided by the noise's deviation. To maximise f is to minimise
`|X - s M|^2` over pose, shift t and the scale s at once. No scale of pictures or map has to be known, and a wrong one, of thick ice
or of another program's map, moves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.refinement.slices import SliceTable

SMALLEST = 1e-20
X, M, FIRST = 0, 1, 2  # places in the products: picture, model, then three turns and two shifts


@dataclass(frozen=True)
class Observed:
    """Pictures at some frequencies, the lowest first, divided by the noise's deviation.

    Attributes
    ----------
    data : `(b, 2, p)` real and imaginary part
    transfer : `(b, p)` what a slice of the map is multiplied by: CTF and amplitude over the noise's deviation
    xy : `(2, p)` frequencies, cycles per Å
    """

    data: Tensor
    transfer: Tensor
    xy: Tensor

    def __len__(self) -> int:
        return len(self.data)

    def part(self, rows: Tensor | slice, count: int) -> Observed:
        """Some pictures at the lowest `count` frequencies."""
        return Observed(self.data[rows, :, :count], self.transfer[rows, :count], self.xy[:, :count])


@dataclass(frozen=True)
class Fit:
    """Scalar products `(b, 7, 7)` of pictures, models and the models' derivatives by a turn about the view's x, y, z (radians) and
    by the shift along x and y (Å).
    """

    products: Tensor

    @property
    def score(self) -> Tensor:
        """`f`, `(b,)`: the matched filter's answer, in deviations of the noise times the square root of 1/2."""
        return self.products[:, X, M] / self.products[:, M, M].clamp(min=SMALLEST).sqrt()

    @property
    def correlation(self) -> Tensor:
        """The correlation coefficient, `(b,)`; 0 for an empty picture."""
        return self.score / self.products[:, X, X].clamp(min=SMALLEST).sqrt()

    @property
    def curvature(self) -> Tensor:
        """Scalar products of the derivatives with the scale s eliminated, `(b, 5, 5)`."""
        cross, norm = self.products[:, FIRST:, M], self.products[:, M, M].clamp(min=SMALLEST)
        return self.products[:, FIRST:, FIRST:] - cross[:, :, None] * cross[:, None] / norm[:, None, None]

    def step(self, damping: Tensor) -> Tensor:
        """Levenberg's and Marquardt's step `(b, 5)`, with the scale s eliminated (variable projection: Golub and Pereyra 1973,
        doi:10.1137/0710036, in Kaufman's approximation). It goes uphill also where s is negative.

        Parameters
        ----------
        damping : `(b,)` added to the diagonal, as a share of it
        """
        cross, norm = self.products[:, FIRST:, M], self.products[:, M, M].clamp(min=SMALLEST)
        scale = self.products[:, X, M] / norm
        curvature = self.curvature
        slope = self.products[:, FIRST:, X] - cross * scale[:, None]
        unit = curvature.diagonal(dim1=1, dim2=2).clamp(min=SMALLEST).sqrt()
        curvature = curvature / (unit[:, :, None] * unit[:, None])
        damped = curvature + torch.diag_embed((damping[:, None] + 1e-6).expand_as(unit))
        step = torch.linalg.solve(damped, slope / unit) / unit
        return step / scale.abs().clamp(min=1e-6)[:, None]


def fit(slices: SliceTable, seen: Observed, poses: Tensor, shifts: Tensor) -> Fit:
    """Compare pictures with a map.

    Parameters
    ----------
    poses : `(b, 3, 3)` pose matrices A
    shifts : `(b, 2)` origins x, y in Å: what would centre the particles
    """
    values, gradient = slices(poses, seen.xy)
    weight = seen.transfer[:, None]
    model = values * weight
    along_x, along_y, along_z = (gradient[:, axis] * weight for axis in range(3))
    x, y = seen.xy
    # exp([v]x) A instead of A turns k by -v x k: the derivative is that of v . (G x k), G the gradient in the view's axes.
    turns = (-y * along_z, x * along_z, y * along_x - x * along_y)
    turned = torch.stack((-model[:, 1], model[:, 0]), dim=1) * (2 * math.pi)  # times 2 pi i
    rows = torch.stack((centred(seen, shifts), model, *turns, x * turned, y * turned), dim=1).flatten(2)
    return Fit(rows @ rows.mT)


def correlation(slices: SliceTable, seen: Observed, poses: Tensor, shifts: Tensor) -> Tensor:
    """`Fit.correlation` alone, at half the cost, `(b,)`."""
    values, _ = slices(poses, seen.xy)
    model, picture = (part.flatten(1) for part in (values * seen.transfer[:, None], centred(seen, shifts)))
    return (model * picture).sum(dim=1) / (model.norm(dim=1) * picture.norm(dim=1)).clamp(min=SMALLEST)


def centred(seen: Observed, shifts: Tensor) -> Tensor:
    """The pictures' data `(b, 2, p)`, moved by shifts in Å: instead of the model, so that its derivatives stay simple."""
    angle = (-2 * math.pi * shifts) @ seen.xy
    cos, sin = angle.cos(), angle.sin()
    real, imaginary = seen.data.unbind(1)
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=1)


def models(slices: SliceTable, seen: Observed, poses: Tensor, shifts: Tensor) -> Tensor:
    """What the map shows in these pictures, `(b, 2, p)`."""
    values, _ = slices(poses, seen.xy)
    return centred(Observed(values * seen.transfer[:, None], seen.transfer, seen.xy), -shifts)
