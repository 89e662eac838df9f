"""The processes that train together: one for each GPU, on one machine or several."""

from __future__ import annotations

import atexit
import datetime
import gc
import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn

from cryopares_core.errors import UserError
from cryopares_core.machine import given_place, started_by_torchrun
from cryopares_core.training.shared_norm import share_batch_norms
from cryopares_core.training.watch import Diverged

logger = logging.getLogger(__name__)
LONGEST_WAIT = datetime.timedelta(hours=6)  # of one process for another: a large set may take long to prepare
# Connections of runs that are over. Their last owner would else be DDP's reducer, which closes them while it holds Python's lock
# and waits for a thread that needs that lock: now and then for ever. Nor may they last until Python ends: a thread of theirs that
# then still asks for the lock aborts the process.
_over: list[Any] = []
T = TypeVar("T")


@contextmanager
def processes(device: torch.device, devices: int | None) -> Iterator[Fabric]:
    """All processes of a run within the `with` block; see `start_processes`."""
    fabric, well = start_processes(device, devices), False
    try:
        with _quiet_end(fabric), _one_voice(fabric):
            yield fabric
        well = True
    finally:
        # Connections that Python's end tears abort the process; those of GPUs may wait for a process that is gone.
        if torch.distributed.is_initialized() and (well or device.type == "cpu"):
            if device.type == "cpu":
                _close_at_exit(torch.distributed.group.WORLD)
            torch.distributed.destroy_process_group()


def _close_at_exit(connections: Any) -> None:
    if not _over:
        atexit.register(_close)
    _over.append(connections)


def _close() -> None:
    gc.collect()  # the last reducers
    _over.clear()  # their threads end here, while Python's lock is free


def start_processes(device: torch.device, devices: int | None) -> Fabric:
    """All processes of a run, each with its device. From here on they run the same program.

    Parameters
    ----------
    device : says whether GPUs are used
    devices : GPUs of this machine, or processes where there are none; None takes all GPUs. Processes that torchrun or srun has
        started are taken as they are.

    Raises
    ------
    UserError : there are not so many GPUs
    """
    environment, nodes, on_this_node = _environment(devices or (torch.cuda.device_count() if device.type == "cuda" else 1))
    if device.type == "cuda" and on_this_node > torch.cuda.device_count():
        raise UserError(
            f"{on_this_node} processes were started on this machine, and each needs a GPU: there are {torch.cuda.device_count()}. "
            "Start fewer (--devices, torchrun --nproc-per-node, srun --ntasks-per-node), or let all see all GPUs (--gres=gpu:N)."
        )
    together = nodes * on_this_node > 1
    backend = "nccl" if device.type == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend, timeout=LONGEST_WAIT, broadcast_buffers=False)
    fabric = Fabric(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=on_this_node,
        num_nodes=nodes,
        strategy=strategy if together else "auto",
        plugins=[environment],
    )
    # Its newer name is not there in all versions of PyTorch that are supported.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    fabric.launch()
    if together:
        _introduce(fabric)
    return fabric


def one_process() -> Fabric:
    """This process alone, on the processor."""
    return Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])


def _environment(wanted: int) -> tuple[ClusterEnvironment, int, int]:
    """Who starts the processes, on how many machines, and how many on this one."""
    place = given_place()
    if place is None:
        return LightningEnvironment(), 1, wanted
    if place.count % place.here:
        raise UserError(
            f"{place.count} processes were started, which are not equally many on each machine. Ask for as many tasks on each "
            "(srun --ntasks-per-node)."
        )
    environment = TorchElasticEnvironment() if started_by_torchrun() else SLURMEnvironment(auto_requeue=False)
    return environment, place.count // place.here, place.here


def _introduce(fabric: Fabric) -> None:
    """The first process tells of the run; the others only of what is wrong."""
    if fabric.is_global_zero:
        logger.info("%d processes train together", fabric.world_size)
    else:
        logging.getLogger("cryopares_core").setLevel(logging.ERROR)


@contextmanager
def told_together(fabric: Fabric) -> Iterator[None]:
    """What is wrong for any process in the `with` block ends all of them, and the first one tells of all of it."""
    problems: list[str] = []
    try:
        yield
    except UserError as error:
        problems = error.problems
    everywhere = [problem for of_one in gathered(fabric, problems) for problem in of_one]
    if everywhere:
        raise UserError(list(dict.fromkeys(everywhere)) if fabric.is_global_zero else [])


@contextmanager
def _quiet_end(fabric: Fabric) -> Iterator[None]:
    """Where all processes stop together, those that the first one has started end as if all were well: Lightning's guard over them
    takes any other end for an accident, and kills the first one, which may still be saving.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError) as error:
        if given_place() is None and not fabric.is_global_zero and not getattr(error, "problems", None):
            raise SystemExit(0) from error
        raise


@contextmanager
def _one_voice(fabric: Fabric) -> Iterator[None]:
    """Within the `with` block processes train in step: what ends all of them alike is told by the first one, and one that lost
    the others says that, and not how its network noticed.
    """
    try:
        yield
    except Diverged as error:
        raise error if fabric.is_global_zero else UserError([]) from error
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"Process {fabric.global_rank} stops: another one has ended ({reason}).") from error


def gathered(fabric: Fabric, value: T) -> list[T]:
    """The values of all processes, in their order."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def processes_here(fabric: Fabric) -> int:
    """How many of the processes are on this machine."""
    return gathered(fabric, socket.gethostname()).count(socket.gethostname())


def mean_over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """Each value's mean over the processes."""
    return values if fabric.world_size == 1 else fabric.all_reduce(values, reduce_op="mean")  # type: ignore[return-value]


def ready_for_all(fabric: Fabric, module: nn.Module) -> nn.Module:
    """A module whose batch norms count the pictures of all processes, as one process would with the whole batch."""
    return share_batch_norms(module, fabric.device) if fabric.world_size > 1 else module
