"""The processes that find poses together. They need not know each other: the work is in shards, and whoever is free takes one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.errors import UserError

logger = logging.getLogger(__name__)
Work = Callable[[Any, "Place"], None]


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
    if "TORCHELASTIC_RUN_ID" in asked:
        return Place(*(int(asked[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    count = int(asked.get("SLURM_STEP_NUM_TASKS", 1))
    if "SLURM_STEP_ID" not in asked or count == 1:
        return None
    here = -(-count // int(asked.get("SLURM_STEP_NUM_NODES", 1)))
    return Place(int(asked["SLURM_PROCID"]), count, int(asked["SLURM_LOCALID"]), here)


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


def wanted_here(devices: int | None, accelerator: str) -> int:
    """How many processes this machine is to have, where nobody has started them."""
    on_gpus = accelerator != "cpu" and torch.cuda.is_available()
    return devices or (torch.cuda.device_count() if on_gpus else 1)


@contextmanager
def helpers(count: int, work: Work, arguments: Any) -> Iterator[None]:
    """`count - 1` further processes that run `work(arguments, place)` meanwhile; they end with the `with` block, or with this
    process, however it ends.
    """
    context = multiprocessing.get_context("spawn")
    places = [Place(rank, count, rank, count) for rank in range(1, count)]
    started = [context.Process(target=_help, args=(work, arguments, place), daemon=True) for place in places]
    for process in started:
        process.start()
    try:
        yield
        _tell_of_failures(started)
    finally:
        for process in started:
            process.terminate()


def _tell_of_failures(started: Sequence[BaseProcess]) -> None:
    for number, process in enumerate(started, start=1):
        process.join(timeout=10)
        if process.exitcode not in (0, None):
            logger.warning("Process %d ended early (exit code %s); the others have done its work", number, process.exitcode)


def _help(work: Work, arguments: Any, place: Place) -> None:
    """What a helping process does. The first one tells of the run, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("cryopares_core").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        work(arguments, place)
    except UserError:  # the first process finds the same, and tells it
        raise SystemExit(UserError.exit_code) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
