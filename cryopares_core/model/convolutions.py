"""Convolutions on S2 and SO(3) and the pointwise activation between them, all on packed coefficients.

Feature maps are `(coefficients, batch, channels)`. In the normalisation used here the functions `sqrt(2l+1) D^l_mn` belong to
coefficients of unit variance. All three commute with a turn of the view's frame, which acts on the index m.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cryopares_core.geometry.synthesis import QuadratureTransform
from cryopares_core.geometry.wigner import degree_slices, harmonic_slices, n_coefficients


class S2Convolution(nn.Module):
    """A signal on the sphere correlated with learned filters: `c^l_mn = sum_i x^l_i[m] psi^l_i[n] / sqrt(f_in)`.

    `x` are `f_in` mixtures of the encoder's channels. Mixing and filtering are both linear: where it is cheaper, in large
    batches, the filters are mixed instead of the signal.

    Filters are learned as coefficients. Adam moves each of N samples of a filter by a full step, so that a filter sampled at N
    points learns sqrt(N) times faster than its coefficients would: `psi = sqrt(N) theta` gives them the same pace.
    """

    def __init__(self, lmax: int, in_channels: int, f_in: int, f_out: int, hp_order: int):
        super().__init__()
        self.lmax, self.f_in, self.f_out = lmax, f_in, f_out
        self.mix = nn.Linear(in_channels, f_in, bias=False)
        self.gain = math.sqrt(12 * 4**hp_order)
        self.theta = nn.Parameter(torch.randn(f_in, (lmax + 1) ** 2, f_out) / self.gain)

    def forward(self, sphere: Tensor) -> Tensor:
        """`((lmax+1)^2, b, in_channels)` -> `(n_coefficients, b, f_out)`."""
        batch = sphere.shape[1]
        if self._mixes_filters(batch):
            filters = (self.mix.weight.T @ self.theta.flatten(1)).view(-1, *self.theta.shape[1:])
        else:
            sphere, filters = self.mix(sphere), self.theta
        scaled = sphere * (self.gain / math.sqrt(self.f_in))
        packed = []
        for degree, place in enumerate(harmonic_slices(self.lmax)):
            orders = 2 * degree + 1
            product = scaled[place].flatten(0, 1) @ filters[:, place].flatten(1)
            packed.append(product.view(orders, batch, orders, self.f_out).transpose(1, 2).flatten(0, 1))
        return torch.cat(packed)

    def _mixes_filters(self, batch: int) -> bool:
        """Whether products with mixed filters take fewer operations in all."""
        channels, harmonics = self.mix.in_features, (self.lmax + 1) ** 2
        outputs = n_coefficients(self.lmax) * self.f_out
        of_signal = batch * self.f_in * (channels * harmonics + outputs)
        of_filters = channels * (self.f_in * harmonics * self.f_out + batch * outputs)
        return of_filters < of_signal


class SO3Activation(nn.Module):
    """A rectifier on the values of the function, brought back to the same degrees."""

    to_function: Tensor
    from_function: Tensor

    def __init__(self, lmax: int):
        super().__init__()
        self.transform = QuadratureTransform(lmax)
        sizes = [place.stop - place.start for place in degree_slices(lmax)]
        norm = torch.repeat_interleave(torch.sqrt(2.0 * torch.arange(lmax + 1) + 1), torch.tensor(sizes))[:, None]
        total = math.sqrt(n_coefficients(lmax))
        self.register_buffer("to_function", norm / total, persistent=False)
        # sqrt 2: a rectified normal variable has half the second moment.
        self.register_buffer("from_function", norm * (total * math.sqrt(2)), persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        """`(n_coefficients, b, channels)` -> the same shape."""
        values = self.transform.synthesis(coefficients.flatten(1) * self.to_function)
        return (self.transform.analysis(torch.relu(values)) * self.from_function).view_as(coefficients)


class SO3Convolution(nn.Module):
    """Learned filters on the right: `out^l = sum_i c^l_i psi^l_i / sqrt(f_in (2l+1))`, one function a picture.

    The result is scaled so that the function starts with values of about unit variance, a nearly uniform density.
    """

    GAIN = math.sqrt(192)  # as in S2Convolution, for a filter sampled at 192 rotations

    def __init__(self, lmax: int, f_in: int):
        super().__init__()
        self.lmax = lmax
        self.theta = nn.Parameter(torch.randn(n_coefficients(lmax), f_in) / self.GAIN)

    def forward(self, coefficients: Tensor) -> Tensor:
        """`(n_coefficients, b, f_in)` -> `(n_coefficients, b)`."""
        batch, f_in = coefficients.shape[1:]
        packed = []
        for degree, place in enumerate(degree_slices(self.lmax)):
            orders = 2 * degree + 1
            block = coefficients[place].view(orders, orders, batch, f_in)
            filters = self.theta[place].view(orders, orders, f_in) * (self.GAIN / (math.sqrt(f_in * orders) * (self.lmax + 1)))
            packed.append(torch.einsum("mkbi,kni->mnb", block, filters).flatten(0, 1))
        return torch.cat(packed)
