"""What the network's density is worth beside the map's likelihood.

Both look at the same image, so that both respond to the same noise: they are not independent, and their product would count the
noise twice. So the network's weight is learned on particles whose poses are known, and it is 0 unless it helps there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EXPONENTS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
UNIFORM_SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)
MIN_STANDARD_ERRORS = 2.0
MIN_LOG_SCORE = math.log(1e-4)


@dataclass(frozen=True)
class NetworkPrior:
    """The prior of the pose: the network's density to a power, mixed with the uniform density.

    `log p(R) = log((1 - e) p_net(R)^tau / Z + e)`, relative to the uniform density. The uniform share bounds what a network that is
    wrong can take away from a pose.

    Attributes
    ----------
    exponent : tau
    uniform_share : e, 1 where the network says nothing
    dispersion : of the map's likelihood, see `PoseSearch`
    """

    exponent: float = 0.0
    uniform_share: float = 1.0
    dispersion: float = 1.0

    @property
    def is_flat(self) -> bool:
        """Whether the map alone decides."""
        return self.uniform_share >= 1 or self.exponent == 0

    def log_density(self, log_net: Tensor) -> Tensor:
        """The network's log-densities `(b, points)`, up to a constant each, to those of the prior."""
        if self.is_flat:
            return torch.zeros_like(log_net)
        scaled = self.exponent * log_net
        log_mean = torch.logsumexp(scaled, dim=1, keepdim=True) - math.log(log_net.shape[1])
        tempered = scaled - log_mean + math.log1p(-self.uniform_share)
        return torch.logaddexp(tempered, torch.full_like(tempered, math.log(self.uniform_share)))


FLAT = NetworkPrior()


def learn_prior(log_likelihood: Tensor, log_net: Tensor, is_true: Tensor) -> NetworkPrior:
    """The prior that puts the most posterior mass on the true poses: the best mean log score.

    The flat prior is kept unless another one is better by two standard errors.

    Parameters
    ----------
    log_likelihood, log_net : `(n, points)` of particles that neither map nor network was made of
    is_true : `(n, points)` which points are near the true pose
    """
    flat = _log_masses(log_likelihood, is_true) - math.log(log_net.shape[1])
    best, best_gain = FLAT, 0.0
    for exponent in EXPONENTS:
        scaled = exponent * log_net
        tempered = _log_masses(log_likelihood + scaled, is_true) - torch.logsumexp(scaled, dim=1)
        for share in UNIFORM_SHARES:
            mixed = torch.logaddexp(tempered + math.log1p(-share), flat + math.log(share))
            gain = _log_score(mixed) - _log_score(flat)
            error = float(gain.std()) / math.sqrt(len(gain))
            if float(gain.mean()) > max(best_gain, MIN_STANDARD_ERRORS * error):
                best, best_gain = NetworkPrior(exponent, share), float(gain.mean())
    return best


def _log_masses(log_density: Tensor, is_true: Tensor) -> Tensor:
    """Log of the mass near the true pose, and of all of it, `(2, n)`."""
    near = torch.logsumexp(log_density.masked_fill(~is_true, -math.inf), dim=1)
    return torch.stack((near, torch.logsumexp(log_density, dim=1)))


def _log_score(log_masses: Tensor) -> Tensor:
    """Log of the share near the true pose, `(n,)`, bounded so that one particle cannot decide."""
    return (log_masses[0] - log_masses[1]).clamp(min=MIN_LOG_SCORE)
