"""The probability density of the pose on SO(3): `log p(R) = f(R) - log Z`, `f(R) = sum_l <c^l, D^l(R)>`.

Coefficients are `(n_coefficients, b)`. Everything here runs in float32 also under autocast: at its peak f is large, and its
rounding is an error of the pose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cryopares_core.geometry.ball import ball_quadrature
from cryopares_core.geometry.grids import SO3Grid, healpix_so3_grid, healpix_spacing_degs
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, rotvec_to_matrix
from cryopares_core.geometry.symmetry import PointGroup
from cryopares_core.geometry.synthesis import GridSynthesis
from cryopares_core.geometry.wigner import Wigner, degree_slices, generators, rotation_projection


class PoseDensity(nn.Module):
    """Loss and poses from coefficients, for one output grid and point group."""

    decay: Tensor
    grid_eulers: Tensor

    def __init__(self, lmax: int, hp_order: int, group: PointGroup, label_sigma_degs: float, label_smoothing: float):
        super().__init__()
        self.lmax, self.label_smoothing = lmax, label_smoothing
        self.grid: SO3Grid = healpix_so3_grid(hp_order)
        self.max_step_rad = healpix_spacing_degs(hp_order) / DEGREES
        self.synthesis = GridSynthesis(lmax, self.grid)
        self.wigner = Wigner(lmax)
        self.register_buffer("decay", _heat_kernel(lmax, label_sigma_degs), persistent=False)
        self.group_order, self.symmetric = group.order, group.order > 1
        for degree, matrix in enumerate(rotation_projection(group.matrices, lmax)):
            self.register_buffer(f"symmetry_{degree}", matrix.float(), persistent=False)
        self.newton = _LocalExpansion(lmax)

    def symmetrise(self, coefficients: Tensor) -> Tensor:
        """The average of f over the point group, `f(R g)`: exact, in coefficients. `(n_coefficients, b)` -> the same."""
        if not self.symmetric:
            return coefficients
        packed = []
        for degree, place in enumerate(degree_slices(self.lmax)):
            block = coefficients[place].view(2 * degree + 1, 2 * degree + 1, -1)
            packed.append(torch.einsum("mkb,kn->mnb", block, self.get_buffer(f"symmetry_{degree}")).flatten(0, 1))
        return torch.cat(packed)

    def grid_values(self, coefficients: Tensor) -> Tensor:
        """f on the output grid: `(n_coefficients, b)` -> `(points, b)`."""
        return self.synthesis(coefficients).flatten(0, 1)

    def loss(self, coefficients: Tensor, values: Tensor, eulers_degs: Tensor) -> Tensor:
        """Cross-entropy of each picture, `(b,)`, in nats over the grid's cells: `ln points` for a uniform density.

        The label is the heat kernel of width sigma about the true pose, mixed with the uniform density:
        `log Z - (1 - eps) sum_l exp(-l(l+1) sigma^2 / 2) <c^l, D^l(R*)> - eps c^0`. No grid point enters but through log Z.

        Parameters
        ----------
        coefficients, values : from `symmetrise` and `grid_values`
        eulers_degs : `(b, 3)` true (rot, tilt, psi) in degrees
        """
        target = self.wigner.from_angles(eulers_degs.to(coefficients.dtype)) * self.decay
        at_label = (target.T * coefficients).sum(dim=0)
        mixed = (1 - self.label_smoothing) * at_label + self.label_smoothing * coefficients[0]
        return torch.logsumexp(values, dim=0) - mixed

    @torch.no_grad()
    def poses(self, coefficients: Tensor, values: Tensor, newton_steps: int = 4) -> Tensor:
        """The density's highest mode, refined off the grid: pose matrices `(b, 3, 3)`, float32."""
        best = self._highest(values)
        pose = euler_degs_to_matrix(self.grid.eulers_degs(best)).to(coefficients)
        height = torch.gather(values, 0, best[None])[0]
        for _ in range(newton_steps):
            step = self._newton_step(coefficients, pose)
            moved = pose @ rotvec_to_matrix(step)
            new_height = (self.wigner(moved).to(coefficients).T * coefficients).sum(dim=0)
            better = new_height > height
            pose = torch.where(better[:, None, None], moved, pose)
            height = torch.where(better, new_height, height)
        return pose

    def _highest(self, values: Tensor) -> Tensor:
        """The highest grid point of each picture, `(points, b)` -> `(b,)`: directions first, since a processor looks for the row of
        a maximum much more slowly than for the maximum.
        """
        directions = values.unflatten(0, (-1, len(self.grid.psi)))
        direction = directions.amax(dim=1).argmax(dim=0)
        turn = directions[direction, :, torch.arange(values.shape[1], device=values.device)].argmax(dim=1)
        return direction * len(self.grid.psi) + turn

    @torch.no_grad()
    def mass_within(self, coefficients: Tensor, poses: Tensor, radius_degs: float) -> Tensor:
        """The probability that the true pose lies within an angle of the given one, or of one that its symmetry makes alike.

        `sum_k w_k p(R Q_k)` over the ball's quadrature `Q_k`, off the grid: `f(R Q) = <D(R)^T c, D(Q)>`. The group's balls are
        taken to lie apart.

        Parameters
        ----------
        coefficients, poses : `(n_coefficients, b)` from `symmetrise`, and `(b, 3, 3)`

        Returns `(b,)`, 0 to 1.
        """
        turns, weights = (x.to(coefficients.device) for x in ball_quadrature(radius_degs))
        local = torch.cat(_seen_from(coefficients, self.wigner(poses).to(coefficients), self.lmax), dim=1)
        heights = local @ self.wigner(turns).to(coefficients).T
        log_mean = torch.logsumexp(self.grid_values(coefficients), dim=0) - math.log(len(self.grid))
        log_mass = torch.logsumexp(heights + weights.log().to(heights), dim=1) - log_mean
        return (self.group_order * log_mass.exp()).clamp(max=1.0)

    def _newton_step(self, coefficients: Tensor, pose: Tensor) -> Tensor:
        gradient, hessian = self.newton(coefficients, self.wigner(pose).to(coefficients))
        curvature, axes = torch.linalg.eigh(hessian)
        # Uphill in every axis: where the function is not concave, Newton's step would lead to a saddle.
        damped = curvature.abs().clamp(min=1e-3 * (1 + curvature.abs().amax(dim=-1, keepdim=True)))
        step = (axes @ ((axes.transpose(-1, -2) @ gradient[..., None]) / damped[..., None]))[..., 0]
        length = step.norm(dim=-1, keepdim=True)
        return step * (self.max_step_rad / length.clamp(min=self.max_step_rad))


class _LocalExpansion(nn.Module):
    """Gradient and Hessian of f for the step `R exp([v]x)`: `<c, D(R) G_i>` and `<c, D(R) (G_i G_j + G_j G_i) / 2>`."""

    def __init__(self, lmax: int):
        super().__init__()
        self.lmax = lmax
        for degree in range(lmax + 1):
            first = torch.from_numpy(generators(degree))
            second = torch.einsum("iab,jbc->ijac", first, first)
            second = (second + second.transpose(0, 1)) / 2
            table = torch.cat((first.flatten(1), second.flatten(2).flatten(0, 1)))
            self.register_buffer(f"table_{degree}", table.T.float().contiguous(), persistent=False)

    def forward(self, coefficients: Tensor, wigner: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients `(n, b)`, D of the poses `(b, n)` -> gradient `(b, 3)`, Hessian `(b, 3, 3)`."""
        total = coefficients.new_zeros(wigner.shape[0], 12)
        for degree, local in enumerate(_seen_from(coefficients, wigner, self.lmax)):
            total = total + local @ self.get_buffer(f"table_{degree}")
        return total[:, :3], total[:, 3:].view(-1, 3, 3)


def _seen_from(coefficients: Tensor, wigner: Tensor, lmax: int) -> list[Tensor]:
    """The coefficients of `f(R Q)` as a function of Q, `D^l(R)^T c^l` of each degree, `(b, (2l+1)^2)`.

    `wigner`: D of the poses R, `(b, n_coefficients)`.
    """
    blocks = []
    for degree, place in enumerate(degree_slices(lmax)):
        orders = 2 * degree + 1
        turn = wigner[:, place].view(-1, orders, orders).transpose(1, 2)
        blocks.append(torch.bmm(turn, coefficients[place].T.view(-1, orders, orders)).flatten(1))
    return blocks


def _heat_kernel(lmax: int, sigma_degs: float) -> Tensor:
    """`exp(-l(l+1) sigma^2 / 2)` for each packed coefficient: how a rotational diffusion of width sigma damps degree l."""
    sigma = math.radians(sigma_degs)
    decay = [torch.full(((2 * lx + 1) ** 2,), math.exp(-lx * (lx + 1) * sigma**2 / 2)) for lx in range(lmax + 1)]
    return torch.cat(decay)
