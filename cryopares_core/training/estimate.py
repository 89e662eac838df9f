"""How much memory a training step takes, and how many pictures fit into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import matrix_to_euler_degs, random_rotations
from cryopares_core.memory import free_memory_bytes
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.precision import uses_bfloat16

FEW, MORE = 2, 6  # pictures that are tried
COPIES_OF_WEIGHTS = 4  # themselves, their gradients, and two moments of the optimizer
# Of free memory. On a processor the pictures of all particles may come to lie there too.
SHARE_GPU, SHARE_PROCESSOR = 0.85, 0.4
AT_WORK = 2.2  # all that a step takes over what it keeps for its gradients; measured 1.4 to 2.15, most for small pictures


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step: what is there once, and for each picture of the batch."""

    fixed: float
    per_picture: float

    def of(self, n_pictures: int) -> float:
        """Bytes for a batch."""
        return self.fixed + n_pictures * self.per_picture


def largest_batch(network: PoseNetwork, image_size_px: int, device: torch.device, precision: str) -> int:
    """How many pictures of a side fit into free memory in one step; 0 where not even one does."""
    try:
        memory = step_memory(network, image_size_px, device, precision)
    except torch.OutOfMemoryError:
        return 0
    return max(0, int((_free_bytes(device) - memory.fixed) / memory.per_picture))


def step_memory(network: PoseNetwork, image_size_px: int, device: torch.device, precision: str) -> StepMemory:
    """What steps on a few and on some more pictures take: measured by the GPU's own count, on a processor by what is kept for
    the gradients.
    """
    measure = _gpu_bytes if device.type == "cuda" else _kept_bytes
    network = network.to(device).train()

    def of(count: int) -> float:
        return measure(lambda: _step(network, image_size_px, device, uses_bfloat16(precision, device), count), device)

    of(FEW)  # the first step also loads and chooses programs
    few, more = of(FEW), of(MORE)
    per_picture = (more - few) / (MORE - FEW)
    weights = sum(value.numel() * value.element_size() for value in network.parameters())
    network.zero_grad(set_to_none=True)
    return StepMemory(max(0.0, few - FEW * per_picture) + COPIES_OF_WEIGHTS * weights, per_picture)


def _free_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return SHARE_PROCESSOR * free_memory_bytes()
    torch.cuda.empty_cache()
    return SHARE_GPU * torch.cuda.mem_get_info(device)[0]


def _step(network: PoseNetwork, size: int, device: torch.device, bfloat16: bool, count: int) -> None:
    """Gradients of a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, network.in_channels, size, size, generator=generator).to(device)
    eulers_degs = matrix_to_euler_degs(random_rotations(count, generator)).float().to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        _, _, losses = network.scores(images, eulers_degs)
    losses.mean().backward()
    network.zero_grad(set_to_none=True)


def _gpu_bytes(step: Callable[[], None], device: torch.device) -> float:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return float(torch.cuda.max_memory_allocated(device) - before)


def _kept_bytes(step: Callable[[], None], device: torch.device) -> float:
    with _counted() as kept:
        step()
    return AT_WORK * sum(kept.values())


@contextmanager
def _counted() -> Iterator[dict[int, int]]:
    """Bytes of the tensors that the `with` block keeps for gradients, by where they lie: some are kept several times."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept
