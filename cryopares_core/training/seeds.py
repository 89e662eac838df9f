"""Seeds for everything that is drawn, each from what it belongs to.

No state of a random generator has to be kept: the draws of step 1,000 follow from its number, whether the 999 before it were
done by this process or by one that was killed.
"""

from __future__ import annotations

import zlib

import numpy as np


def seed_of(*parts: int | str) -> int:
    """A seed below 2^63 from numbers and names; other parts give another, unrelated one."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
