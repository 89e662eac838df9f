"""Real Wigner matrices of any degree and, from them, spherical harmonics.

Basis: for each degree l the real spherical harmonics of order m = -l … l with the polar axis on z (m > 0 goes with cos m phi,
m < 0 with sin |m| phi); degree 1 is (y, z, x). This is e3nn's basis after renaming its axes (x, y, z) -> (y, z, x).

Packing: the coefficients of all degrees 0 … lmax lie in one axis of `n_coefficients(lmax)`, degree after degree, each a
row-major `(2l+1, 2l+1)` block `[m, n]`. `D^l` is a representation of rotation matrices: `D(AB) = D(A) D(B)`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from cryopares_core.geometry.rotations import DEGREES, matrix_to_euler_degs


def n_coefficients(lmax: int) -> int:
    """`sum_l (2l+1)^2` over l = 0 … lmax."""
    return (lmax + 1) * (2 * lmax + 1) * (2 * lmax + 3) // 3


def degree_slices(lmax: int) -> list[slice]:
    """Where each degree's block lies in the packed axis."""
    return [slice(n_coefficients(degree - 1), n_coefficients(degree)) for degree in range(lmax + 1)]


def harmonic_slices(lmax: int) -> list[slice]:
    """Where each degree lies in a packed axis of spherical harmonics, `(lmax+1)^2` long."""
    return [slice(degree**2, (degree + 1) ** 2) for degree in range(lmax + 1)]


@lru_cache(maxsize=64)
def generators(degree: int) -> np.ndarray:
    """`(3, 2l+1, 2l+1)` float64: the antisymmetric generators about x, y, z, so that `D(exp([v]x)) = exp(v . G)`.

    The textbook angular momentum matrices, brought into the real basis; degree 1 gives back the cross product.
    """
    m = np.arange(-degree, degree + 1)
    raising = np.zeros((m.size, m.size), dtype=complex)
    raising[np.arange(1, m.size), np.arange(m.size - 1)] = np.sqrt(degree * (degree + 1) - m[:-1] * (m[:-1] + 1))
    j_x, j_y = (raising + raising.T) / 2, (raising - raising.T) / 2j
    to_real = _real_from_complex(degree)
    return np.stack([(to_real @ (-1j * j) @ to_real.conj().T).real for j in (j_x, j_y, np.diag(m).astype(complex))])


def _real_from_complex(degree: int) -> np.ndarray:
    """Unitary change from complex harmonics (with the Condon-Shortley phase) to the real basis, rows real."""
    change = np.zeros((2 * degree + 1,) * 2, dtype=complex)
    change[degree, degree] = 1
    for m in range(1, degree + 1):
        sign = (-1) ** m
        change[degree + m, [degree + m, degree - m]] = sign / math.sqrt(2), 1 / math.sqrt(2)
        change[degree - m, [degree + m, degree - m]] = -1j * sign / math.sqrt(2), 1j / math.sqrt(2)
    return change.conj()


@lru_cache(maxsize=64)
def _tilt_spectrum(degree: int) -> np.ndarray:
    """`(2l+1, 2l+1, 2l+1)`: the Fourier coefficients of `d^l(tilt)`, rows 0 … l for cos k tilt, then 1 … l for sin k tilt."""
    # RELION turns axes: its Ry(tilt) is the active rotation by -tilt, exp(-tilt G_y). i G_y is Hermitian, its spectrum -l … l.
    _, vectors = np.linalg.eigh(1j * generators(degree)[1])
    projectors = np.einsum("ak,bk->kab", vectors, vectors.conj())
    spectrum = np.zeros((2 * degree + 1,) * 3)
    spectrum[0] = projectors[degree].real
    for k in range(1, degree + 1):
        above, below = projectors[degree + k], projectors[degree - k]
        spectrum[k] = (above + below).real
        spectrum[degree + k] = (1j * (above - below)).real
    return spectrum


def fourier_basis(angle_rad: Tensor, lmax: int) -> Tensor:
    """`(...)` -> `(..., 2 lmax + 1)`: for k = -lmax … lmax, sin |k| angle where k < 0, cos k angle where k >= 0."""
    k = torch.arange(1, lmax + 1, dtype=angle_rad.dtype, device=angle_rad.device)
    phase = angle_rad[..., None] * k
    one = torch.ones_like(angle_rad[..., None])
    return torch.cat((torch.sin(phase).flip(-1), one, torch.cos(phase)), dim=-1)


class Wigner(nn.Module):
    """Packed Wigner matrices of arbitrary rotations: one small matrix product and two sweeps over orders.

    `D(A) = Z(psi) d(tilt) Z(rot)`; each entry of `d^l` is a trigonometric polynomial of degree l in the tilt, and Z couples
    only m and -m. Tables take `(2 lmax + 1) n_coefficients` numbers: 0.3 MB at lmax 12.
    """

    spectrum: Tensor
    row_order: Tensor
    column_order: Tensor
    row_partner: Tensor
    column_partner: Tensor

    def __init__(self, lmax: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.lmax = lmax
        spectrum, indices = _packed_tables(lmax)
        self.register_buffer("spectrum", torch.from_numpy(spectrum).to(dtype), persistent=False)
        for name, index in indices.items():
            self.register_buffer(name, torch.from_numpy(index), persistent=False)

    def tilt_matrices(self, tilt_rad: Tensor) -> Tensor:
        """`d^l(tilt)` of all degrees: `(...)` -> `(..., n_coefficients)`."""
        return fourier_basis(tilt_rad, self.lmax) @ self.spectrum

    def from_angles(self, eulers_degs: Tensor) -> Tensor:
        """`D^l` of RELION angles `(..., 3)` in degrees: `(..., n_coefficients)`."""
        rot, tilt, psi = (eulers_degs / DEGREES).unbind(-1)
        turned = self._sweep(self.tilt_matrices(tilt), psi, self.row_order, self.row_partner, 1)
        return self._sweep(turned, rot, self.column_order, self.column_partner, -1)

    def forward(self, matrix: Tensor) -> Tensor:
        """`D^l` of rotation matrices `(..., 3, 3)`: `(..., n_coefficients)`."""
        return self.from_angles(matrix_to_euler_degs(matrix.double()).to(self.spectrum.dtype))

    def turned(self, packed: Tensor, psi_rad: Tensor) -> Tensor:
        """Coefficients of the same functions seen in a frame turned about z: `f(R) -> f(Rz(-psi) R)`, `(..., n_coefficients)`.

        As a turn of the picture makes the projection at psi' the one at psi' + psi, this brings the coefficients along.
        """
        return self._sweep(packed, psi_rad, self.row_order, self.row_partner, 1)

    def _sweep(self, packed: Tensor, angle_rad: Tensor, order: Tensor, partner: Tensor, side: int) -> Tensor:
        # Z(angle)[m, m] = cos m angle and Z(angle)[m, -m] = sin m angle; from the right its transpose acts, hence `side`.
        phase = angle_rad[..., None] * torch.arange(-self.lmax, self.lmax + 1, device=packed.device)
        cos, sin = torch.cos(phase), torch.sin(phase) * side
        place = order + self.lmax
        return cos.index_select(-1, place) * packed + sin.index_select(-1, place) * packed.index_select(-1, partner)


def _packed_tables(lmax: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The tilt's Fourier table over all degrees, and for each packed coefficient m, n and where (-m, n) and (m, -n) lie."""
    spectrum = np.zeros((2 * lmax + 1, n_coefficients(lmax)))
    parts: dict[str, list[np.ndarray]] = {"row_order": [], "column_order": [], "row_partner": [], "column_partner": []}
    for degree, place in enumerate(degree_slices(lmax)):
        blocks = _tilt_spectrum(degree).reshape(2 * degree + 1, -1)
        spectrum[lmax : lmax + degree + 1, place] = blocks[: degree + 1]
        spectrum[lmax - degree : lmax, place] = blocks[:degree:-1]
        orders = np.arange(-degree, degree + 1)
        at = np.arange(place.start, place.stop).reshape(orders.size, orders.size)
        grids = np.meshgrid(orders, orders, indexing="ij")
        for name, values in zip(parts, (*grids, at[::-1], at[:, ::-1]), strict=True):
            parts[name].append(values.ravel())
    return spectrum, {name: np.concatenate(values) for name, values in parts.items()}


def spherical_harmonics(lmax: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics of unit vectors xyz `(..., 3)`: `(..., (lmax+1)^2)`, each degree of squared norm 2l+1.

    `Y^l(u) = sqrt(2l+1) D^l(R)[:, 0]` for any R that takes the pole to u.
    """
    x, y, z = directions.double().unbind(-1)
    # RELION's matrix with rot = 0: its third column (the pole's image) is (-cos psi sin tilt, sin psi sin tilt, cos tilt).
    tilt, psi = torch.atan2(torch.hypot(x, y), z), torch.atan2(y, -x)
    packed = Wigner(lmax, dtype=torch.float64).from_angles(torch.stack((0 * tilt, tilt, psi), dim=-1) * DEGREES)
    columns = []
    for degree, place in enumerate(degree_slices(lmax)):
        block = packed[..., place].unflatten(-1, (2 * degree + 1, 2 * degree + 1))
        columns.append(block[..., degree] * math.sqrt(2 * degree + 1))
    return torch.cat(columns, dim=-1).to(directions.dtype)


def rotation_projection(group: Tensor, lmax: int) -> list[Tensor]:
    """For each degree the matrix `(2l+1, 2l+1)`, float64, by which a point group averages coefficients from the right.

    Averaging `f(R g)` over all elements g is `c^l -> c^l P^l` with `P^l` the mean of `D^l(g)`: exact, a projection.
    """
    mean = Wigner(lmax, dtype=torch.float64)(group.double()).mean(dim=0)
    return [mean[place].view(2 * degree + 1, -1) for degree, place in enumerate(degree_slices(lmax))]
