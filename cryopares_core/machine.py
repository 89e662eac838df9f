"""Which processes belong together, and what of the machine each of them computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from cryopares_core.errors import UserError


@dataclass(frozen=True)
class Place:
    """This process is number `rank` of `count`, and number `local_rank` of the `here` on its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    here: int = 1


def given_place() -> Place | None:
    """The place that torchrun or srun has given to this process; None where neither has started it together with others.

    In a Slurm job only processes of `srun` belong together: the job's script is alone, whatever was asked for.
    """
    asked = os.environ
    if started_by_torchrun():
        return Place(*(int(asked[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    count = int(asked.get("SLURM_STEP_NUM_TASKS", 1))
    if "SLURM_STEP_ID" not in asked or count == 1:
        return None
    here = -(-count // int(asked.get("SLURM_STEP_NUM_NODES", 1)))
    return Place(int(asked["SLURM_PROCID"]), count, int(asked["SLURM_LOCALID"]), here)


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def device_of(place: Place, accelerator: str, n_threads: int | None) -> torch.device:
    """A GPU where there is one and the user doesn't mind, else the processor; sets its threads, too.

    Raises
    ------
    UserError : a GPU is wanted, and there is none
    """
    allowed = len(os.sched_getaffinity(0))
    if n_threads or place.here > 1:
        # More threads than the job may use would wait for each other.
        torch.set_num_threads(max(1, min(n_threads or allowed, allowed) // place.here))
    if accelerator != "cpu" and torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        return torch.device("cuda", place.local_rank % torch.cuda.device_count())
    if accelerator == "gpu":
        raise UserError("--accelerator=gpu: PyTorch sees no GPU. Check the driver (nvidia-smi), or use --accelerator auto or cpu.")
    return torch.device("cpu")


@contextmanager
def exact_products() -> Iterator[None]:
    """Places in a map's transform need all digits, which graphics cards leave out of matrix products if they may."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
