"""Which models find the poses of which particles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cryopares_core.config.infer_arguments import BOTH, ONE_MODEL, SAME_HALF
from cryopares_core.errors import UserError

HALVES = ("half1", "half2")


@dataclass(frozen=True)
class Assignment:
    """Teams of models, by their names, and the team `(n,)` of each particle. The answers of a team are averaged.

    `compares` tells whether the other of two teams finds each pose as well.
    """

    teams: list[tuple[str, ...]]
    team: np.ndarray
    compares: bool = False

    @property
    def at_work(self) -> list[int]:
        """The numbers of the teams that have work."""
        return list(range(len(self.teams))) if self.compares else np.unique(self.team).tolist()

    @property
    def names(self) -> set[str]:
        """All models that have work."""
        return {name for number in self.at_work for name in self.teams[number]}

    def other(self, number: int) -> int:
        """The team that a team's poses are compared with."""
        return 1 - number


def assign(
    policy: str, model: str | None, available: Iterable[str], half_set: np.ndarray, compares: bool = False
) -> tuple[Assignment, str]:
    """Who does what, and a sentence that tells it.

    Parameters
    ----------
    model : that of `one_model`, by name
    available : names of trained models
    half_set : `(n,)` 1 or 2
    compares : whether the model of the other half set finds each pose as well

    Raises
    ------
    UserError : a model that is needed is not there
    """
    there = list(available)
    if policy == SAME_HALF and not set(there) & set(HALVES):
        policy = ONE_MODEL  # a model without half sets
    if compares and not (policy == SAME_HALF and set(HALVES) <= set(there)):
        raise UserError(
            f"--consensus needs the models of both half sets, and only {', '.join(there)} is there. Give the folder of a run with "
            "half1 and half2, or leave --consensus out."
        )
    if policy == ONE_MODEL:
        return _one_model(model or _best(there), there, len(half_set))
    wanted = HALVES if policy == BOTH else tuple(HALVES[half - 1] for half in np.unique(half_set))
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UserError(
            f"--policy {policy} needs the model {' and '.join(missing)}, and only {', '.join(there)} is there. "
            f"Finish the training, or use --policy {ONE_MODEL}."
        )
    if policy == BOTH:
        told = "Both models answer together for all particles: half maps of these poses are not independent"
        return Assignment([HALVES], np.zeros(len(half_set), dtype=np.int8)), told
    counts = [int((half_set == half).sum()) for half in (1, 2)]
    told = f"The model of each half set finds the poses of its own particles: {counts[0]:,} by half1, {counts[1]:,} by half2"
    return Assignment([(name,) for name in HALVES], half_set.astype(np.int8) - 1, compares), told


def without_models(n: int) -> Assignment:
    """For `n` particles that a map alone decides on."""
    return Assignment([()], np.zeros(n, dtype=np.int8))


def _best(there: list[str]) -> str:
    return next(name for name in ("allParticles", *HALVES, *there) if name in there)


def _one_model(name: str, there: list[str], n: int) -> tuple[Assignment, str]:
    if name not in there:
        raise UserError(f"--model={name} is not there. There {'is' if len(there) == 1 else 'are'} {', '.join(there)}.")
    note = ": half maps of these poses are not independent" if name in HALVES else ""
    return Assignment([(name,)], np.zeros(n, dtype=np.int8)), f"One model, {name}, finds the poses of all particles{note}"
