"""Half sets: those of the refinement that gave the poses, where the particles carry them, else drawn."""

from typing import Any, List, Optional, Sequence

import numpy as np

from cryopares_plugin.convert.rows import ParticleRows

# RELION's name, which the other plugins use as well, and two that say the same.
LABELS = ("_rlnRandomSubset", "_randomSubset", "_halfSet")


def half_set_label(rows: ParticleRows) -> Optional[str]:
    """The attribute that holds the particles' half sets, if they have one."""
    return next((label for label in LABELS if rows.has(label)), None)


class HalfSets:
    """Half sets 1 and 2 of particles that come block by block.

    Particles without one are drawn from `seed`, so that the halves of what is drawn differ by one particle a block at most.
    """

    def __init__(self, seed: int):
        self._random = np.random.default_rng(seed)
        self.drawn = 0

    def of(self, values: Sequence[Any]) -> List[int]:
        """1 or 2 for each particle of a block, from what it has (None or another number: nothing)."""
        halves = np.array([value if value in (1, 2) else 0 for value in values], dtype=np.int8)
        without = np.flatnonzero(halves == 0)
        halves[without] = self._random.permutation(len(without)) % 2 + 1
        self.drawn += len(without)
        return halves.tolist()
