"""Values of band-limited functions on SO(3) grids, from packed coefficients and back, as three small matrix products.

`f(R) = sum_l <c^l, D^l(R)>` with `D = Z(psi) d(tilt) Z(rot)`. Z couples only m and -m, so in the real Fourier bases of psi and
rot the function is a matrix B(tilt), and

    B_pq(tilt) = sum over l of the (up to two) products c^l_mn d^l_m'n'(tilt) with |m| = |m'| = |p|, |n| = |n'| = |q|
    f(rot, tilt, psi) = sum_pq  e_p(psi) B_pq(tilt) e_q(rot),    e = (sin L, …, sin 1, 1, cos 1, …, cos L).

Only two of four products remain because a turn about y keeps functions that are even and odd under y -> -y apart. Tables take
a few megabytes; nothing has the size of grid times coefficients. Functions stand in the last axis, so that every product is
one large matrix product and no transposition is copied.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cryopares_core.geometry.grids import SO3Grid
from cryopares_core.geometry.wigner import Wigner, degree_slices, fourier_basis, n_coefficients


class TiltSynthesis(nn.Module):
    """Packed coefficients to the Fourier matrices B at fixed tilts, and the adjoint."""

    index: Tensor
    table: Tensor

    def __init__(self, lmax: int, tilt_rad: Tensor, dtype: torch.dtype = torch.float32):
        """`tilt_rad`: `(rings,)` float64."""
        super().__init__()
        self.lmax, self.orders = lmax, 2 * lmax + 1
        index, small_index, sign = _fourier_terms(lmax)
        small = Wigner(lmax, dtype=torch.float64).tilt_matrices(tilt_rad.double())
        table = small.T[small_index].permute(0, 2, 1) * sign[:, None, :]
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("table", table.to(dtype).contiguous(), persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        """`(n_coefficients, functions)` -> B `(p, q, rings, functions)`."""
        terms = coefficients.index_select(0, self.index.flatten()).view(*self.index.shape, -1)
        return torch.bmm(self.table, terms).view(self.orders, self.orders, -1, terms.shape[-1])

    def adjoint(self, fourier: Tensor) -> Tensor:
        """B `(p, q, rings, functions)` -> `(n_coefficients, functions)`: the transpose of `forward`."""
        terms = torch.bmm(self.table.transpose(1, 2), fourier.flatten(0, 1))
        packed = terms.new_zeros(n_coefficients(self.lmax), terms.shape[-1])
        return packed.index_add(0, self.index.flatten(), terms.flatten(0, 1))


def _fourier_terms(lmax: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each (p, q): which coefficients c^l_mn meet which d^l_m'n', and with what sign, `(orders^2, 2 (lmax+1))` each.

    Unused places have sign 0. Z(psi)[m, m'] is cos m psi at m' = m and sin m psi at m' = -m, so the sine of order p = -|m|
    takes m = |p| with sign + and m = -|p| with sign -; Z(rot)[n', n] is the same with sin n' rot.
    """
    start = [place.start for place in degree_slices(lmax)]
    shape = ((2 * lmax + 1) ** 2, 2 * (lmax + 1))
    index, small_index = (torch.zeros(shape, dtype=torch.int64) for _ in "cd")
    sign = torch.zeros(shape, dtype=torch.float64)
    pairs = [(p, q) for p in range(-lmax, lmax + 1) for q in range(-lmax, lmax + 1)]
    for row, (p, q) in enumerate(pairs):
        slot = 0
        for m, m_small, sign_m in _row_terms(p):
            for n_small, n, sign_n in _row_terms(q):
                if (m_small < 0) != (n_small < 0):
                    continue  # d is zero there: even and odd functions do not mix
                for degree in range(max(abs(p), abs(q)), lmax + 1):
                    place = start[degree] + degree * (2 * degree + 2)
                    index[row, slot] = place + m * (2 * degree + 1) + n
                    small_index[row, slot] = place + m_small * (2 * degree + 1) + n_small
                    sign[row, slot] = sign_m * sign_n
                    slot += 1
    return index, small_index, sign


def _row_terms(p: int) -> list[tuple[int, int, int]]:
    """`(row, column, sign)` of the entries of Z that go with the Fourier function p."""
    if p == 0:
        return [(0, 0, 1)]
    return [(p, p, 1), (-p, -p, 1)] if p > 0 else [(-p, p, 1), (p, -p, -1)]


class GridSynthesis(nn.Module):
    """Values on an `SO3Grid`, for the output density."""

    rot_basis: Tensor
    psi_basis: Tensor
    place: Tensor

    def __init__(self, lmax: int, grid: SO3Grid, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.tilt = TiltSynthesis(lmax, grid.ring_tilt, dtype)
        counts = torch.bincount(grid.ring_of_direction)
        in_ring = torch.cat([torch.arange(int(count)) for count in counts])
        rot_basis = torch.zeros(len(counts), int(counts.max()), 2 * lmax + 1, dtype=torch.float64)
        rot_basis[grid.ring_of_direction, in_ring] = fourier_basis(grid.rot, lmax)
        self.register_buffer("rot_basis", rot_basis.to(dtype), persistent=False)
        self.register_buffer("psi_basis", fourier_basis(grid.psi, lmax).to(dtype), persistent=False)
        # Rings are padded to the longest one; `place` picks the real directions again.
        self.register_buffer("place", grid.ring_of_direction * int(counts.max()) + in_ring, persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        """`(n_coefficients, functions)` -> `(directions, turns, functions)`."""
        fourier = self.tilt(coefficients)
        orders, functions = fourier.shape[0], fourier.shape[-1]
        by_ring = fourier.permute(2, 1, 0, 3).reshape(fourier.shape[2], orders, orders * functions)
        by_direction = torch.bmm(self.rot_basis, by_ring).flatten(0, 1).index_select(0, self.place)
        return self.psi_basis @ by_direction.view(-1, orders, functions)


class QuadratureTransform(nn.Module):
    """Synthesis on a Gauss-Legendre grid and the analysis that inverts it exactly, for pointwise activations.

    `2 lmax + 2` uniform angles rot, `lmax + 1` tilts: products of two functions of degree lmax are integrated exactly. The
    number of angles psi is a multiple of four, so that a pointwise activation commutes with quarter turns of the picture.
    """

    psi_basis: Tensor
    rot_basis: Tensor
    weight: Tensor

    def __init__(self, lmax: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        nodes, weights = np.polynomial.legendre.leggauss(lmax + 1)
        self.rot_turns = 2 * lmax + 2
        self.psi_turns = 4 * -(-self.rot_turns // 4)
        self.tilt = TiltSynthesis(lmax, torch.arccos(torch.from_numpy(nodes)), dtype)
        for name, turns in (("psi_basis", self.psi_turns), ("rot_basis", self.rot_turns)):
            angle = torch.arange(turns, dtype=torch.float64) * (2 * torch.pi / turns)
            self.register_buffer(name, fourier_basis(angle, lmax).to(dtype), persistent=False)
        share = torch.from_numpy(weights / 2) / (self.psi_turns * self.rot_turns)
        self.register_buffer("weight", share.to(dtype)[:, None], persistent=False)

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """`(n_coefficients, functions)` -> values `(psi, rot, tilts * functions)`."""
        fourier = self.tilt(coefficients)
        by_rot = self.rot_basis @ fourier.flatten(2)
        return (self.psi_basis @ by_rot.flatten(1)).unflatten(1, (self.rot_turns, -1))

    def analysis(self, values: Tensor) -> Tensor:
        """Values `(psi, rot, tilts * functions)` -> `(n_coefficients, functions)`: `integral f D^l dR` for each coefficient.

        The coefficients of f itself are `2l+1` times that (the norm of `D^l_mn`).
        """
        weighted = values.unflatten(2, (len(self.weight), -1)) * self.weight
        by_rot = (self.psi_basis.T @ weighted.flatten(1)).unflatten(1, (self.rot_turns, -1))
        return self.tilt.adjoint((self.rot_basis.T @ by_rot).unflatten(2, weighted.shape[2:]))
