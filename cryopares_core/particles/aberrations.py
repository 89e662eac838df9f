"""What a STAR file says of the microscope that is not corrected for here."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from cryopares_core.particles.starblocks import StarBlocks
from cryopares_core.particles.text import to_floats

ZERO_WITHOUT = ("rlnBeamTiltX", "rlnBeamTiltY")
LISTS = ("rlnOddZernike", "rlnEvenZernike")
MAGNIFICATION = {"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0}
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
SMALLEST = 1e-6


def uncorrected(blocks: StarBlocks) -> list[str]:
    """A warning where columns of higher aberrations, beam tilt or anisotropic magnification say something."""
    frames = [blocks.particles] if blocks.optics is None else [blocks.optics, blocks.particles]
    named = [name for frame in frames for name in frame.columns if _says_something(frame, name)]
    if not named:
        return []
    return [
        f"{blocks.path}: {', '.join(dict.fromkeys(named))} {'is' if len(set(named)) == 1 else 'are'} not corrected for: finest "
        "detail may suffer."
    ]


def _says_something(frame: pd.DataFrame, name: str) -> bool:
    if name in LISTS:
        cells = set(frame[name].astype(str))
        return any(abs(float(number)) > SMALLEST for cell in cells for number in NUMBER.findall(cell))
    if name in ZERO_WITHOUT or name in MAGNIFICATION:
        return bool((np.abs(to_floats(frame[name]) - MAGNIFICATION.get(name, 0.0)) > SMALLEST).any())
    return False
