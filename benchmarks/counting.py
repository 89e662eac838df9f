"""What an operation costs at least: its arithmetic and its traffic, and how fast this machine does both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_VIEWS = ("view", "reshape", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze", "detach", "alias")
_VIEWS += ("as_strided", "split", "unbind", "narrow", "empty", "empty_like", "new_empty", "_unsafe_view")


def timed_ms(action: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Milliseconds, the median of some runs after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        action()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] * 1e3


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write, as if nothing stayed in a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__.split(".")[0] not in _VIEWS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of matrix products and convolutions, and bytes read and written by all operations."""

    flop: float
    bytes: float


def cost_of(action: Callable[[], object]) -> Cost:
    """Counted by running the action once."""
    with FlopCounterMode(display=False) as counter:
        action()
    with _Traffic() as traffic:
        action()
    return Cost(float(counter.get_total_flops()), float(traffic.bytes))


@dataclass(frozen=True)
class Machine:
    """Measured rates: operations a second in large matrix products, bytes a second in a large copy."""

    flop: float
    bytes: float

    def floor_ms(self, cost: Cost) -> tuple[float, float]:
        """The time for the arithmetic and the time for the traffic, each alone."""
        return cost.flop / self.flop * 1e3, cost.bytes / self.bytes * 1e3


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The rates of this machine with the threads it may use now."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in "ab")
    product_ms = timed_ms(lambda: a @ b, device)
    large = torch.empty(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(large)
    copy_ms = timed_ms(lambda: target.copy_(large), device)
    return Machine(2 * side**3 / product_ms * 1e3, 2 * large.numel() * 4 / copy_ms * 1e3)
