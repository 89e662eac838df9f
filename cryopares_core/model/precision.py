"""In which arithmetic the network computes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

_FLAGS = ("avx512_bf16", "amx_bf16")


def uses_bfloat16(name: str, device: torch.device) -> bool:
    """Whether a precision of the schema, `auto`, `32` or `bf16`, means bfloat16 on a device: auto does where the device has it.

    The encoder and the projector then compute in bfloat16, with weights and sums in float32; everything on SO(3) stays in
    float32, where rounding would be an error of the pose.
    """
    if name != "auto":
        return name == "bf16"
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else processor_has_bfloat16()


@lru_cache(maxsize=1)
def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself; without that they are slower than float32."""
    try:
        return any(flag in Path("/proc/cpuinfo").read_text() for flag in _FLAGS)
    except OSError:  # not Linux
        return False
