"""What augmentation costs: each operation, all of them as the guide sets them, and against a training step of the same run.

    python benchmarks/augmentation.py [--threads 1] [--batch 64] [--size 160] [--device cuda] [--no_step]

On a processor the times are processor time, which other work on the machine lengthens little. The floor is one bilinear
resampling of the batch at the guide's turns, with a grid that is there already: nothing that turns every picture is cheaper.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.config.schema import Config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.particles import augmentation, draws
from cryopares_core.particles.preprocess import network_mask
from cryopares_core.training.module import PoseTraining


def cost_ms(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Milliseconds, the median of some runs after two to warm up: of the processor, or on a GPU until it has done the work."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    for _ in range(repeats + 2):
        started = clock()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - started)
    return statistics.median(times[2:]) * 1e3


def only(name: str) -> Config:
    """Settings under which every picture gets one operation and no other; without a name none at all."""
    config = Config()
    augmenter = config.datamanager.augmenter
    augmenter.prob_augment_each_image, augmenter.min_n_augm_per_img = 1.0, 0
    for operation in draws.OPERATIONS:
        getattr(augmenter.operations, operation).p = float(operation == name)
    return config


def augmenter_of(config: Config) -> augmentation.Augmenter:
    return augmentation.Augmenter(config.datamanager.augmenter)


def training_step(images: Tensor, eulers: Tensor) -> Callable[[], None]:
    """A step of the guide's network in the precision of the defaults: loss, gradients, clipping, optimizer."""
    size, config = images.shape[-1], Config()
    network = PoseNetwork(config.models.image2sphere, "C1", size)
    bfloat16 = uses_bfloat16(config.train.precision, images.device)
    module = PoseTraining(network, "C1", network_mask(size, 1.5, None), bfloat16).to(images.device).train()
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(images, eulers)[0].mean().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.train.gradient_clip_norm)
        optimizer.step()

    return step


def report(name: str, milliseconds: float, batch: int, floor: float, step: float | None) -> None:
    cells = [f"{milliseconds / batch:.3f}", f"{batch / milliseconds * 1e3:,.0f}", f"{milliseconds / floor:.2f}"]
    cells += [f"{milliseconds / step:.2%}"] if step else []
    print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no_step", action="store_true", help="without the training step, which takes gigabytes")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device, batch, size = torch.device(arguments.device), arguments.batch, arguments.size
    images, eulers = torch.randn(batch, 1, size, size, device=device), torch.rand(batch, 3, device=device) * 180

    def timed(action: Callable[[], object]) -> float:
        return cost_ms(action, device, arguments.repeats)

    angle = torch.deg2rad(draws.draw(Config().datamanager.augmenter, batch, size).turn_degs)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(batch)
    turns = torch.stack((cos, -sin, zero, sin, cos, zero), dim=-1).reshape(batch, 2, 3)
    grid = F.affine_grid(turns, [batch, 1, size, size], align_corners=False).to(device)
    floor = timed(lambda: F.grid_sample(images, grid, align_corners=False))
    step = None if arguments.no_step else cost_ms(training_step(images, eulers), device, max(3, arguments.repeats // 5))
    print(f"{batch} pictures of {size} px, {device}, {arguments.threads} threads")
    print("| | ms a picture | pictures/s | of the floor |" + (" of a step |" if step else ""))
    report("floor: one resampling", floor, batch, floor, step)
    report("numbers alone", timed(lambda: draws.draw(Config().datamanager.augmenter, batch, size)), batch, floor, step)
    nothing = timed(lambda: augmenter_of(only(""))(images, eulers))
    report("resampling without an operation", nothing, batch, floor, step)
    for name in draws.OPERATIONS:
        more = timed(lambda name=name: augmenter_of(only(name))(images, eulers)) - nothing  # type: ignore[misc]
        if name not in draws.GEOMETRIC[:4]:
            report(f"{name}, for every picture, on top", more, batch, floor, step)
    for name in draws.GEOMETRIC[:4]:
        report(f"{name}, for every picture", timed(lambda name=name: augmenter_of(only(name))(images, eulers)), batch, floor, step)  # type: ignore[misc]
    report("all as in the guide", timed(lambda: augmenter_of(Config())(images, eulers)), batch, floor, step)
    if step:
        report("a training step without augmentation", step, batch, floor, step)


if __name__ == "__main__":
    main()
