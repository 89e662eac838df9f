"""Time, memory, arithmetic and traffic of each part of the network and of whole steps, against the same mathematics done densely.

    python benchmarks/network.py [--threads 2] [--batch 4] [--precision bf16] [--only NAME] [--dense] [--compile]
    python benchmarks/network.py --device cuda --batch 32 --precision bf16

Ratios to the dense reference (benchmarks/dense.py) come from the same run. Floors: arithmetic at the rate of a large matrix
product, and traffic at the rate of a large copy if nothing stayed in a cache, both measured first.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from counting import Machine, cost_of, measure_machine, timed_ms
from dense import largest_difference, make_dense
from torch import Tensor

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.config.merge import load_config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.training.phases import peak_memory_gb

IMAGE2SPHERE = "models.image2sphere."
RESNET = IMAGE2SPHERE + "imageencoder.resnet.resnetName="
SMALL = ["lmax=6", "so3components.i2sprojector.sphere_fdim=128", "so3components.i2sprojector.hp_order=2"]
SMALL += ["so3components.s2conv.f_out=32", "so3components.s2conv.hp_order=2", "so3components.so3outputgrid.hp_order=3"]
SMALL = [IMAGE2SPHERE + word for word in SMALL]
SETTINGS: dict[str, tuple[int, list[str]]] = {
    "guide, U-Net, 160 px": (160, []),
    "guide, resnet18, 160 px": (160, [RESNET + "resnet18"]),
    "guide, resnet101, 160 px": (160, [RESNET + "resnet101"]),
    "small, U-Net, 64 px": (64, SMALL),
    "small, resnet18, 64 px": (64, [*SMALL, RESNET + "resnet18"]),
}


class Bench:
    """One network with pictures to train on."""

    def __init__(self, name: str, arguments: argparse.Namespace, symmetry: str = "C1", dense: bool = False):
        size, overrides = SETTINGS[name]
        self.device, self.batch, self.precision = torch.device(arguments.device), arguments.batch, arguments.precision
        settings = load_config(None, overrides).models.image2sphere
        started = time.perf_counter()
        self.network = PoseNetwork(settings, symmetry, size).to(self.device)
        self.built_s = time.perf_counter() - started
        if dense:
            make_dense(self.network, settings.so3components.s2conv.hp_order)
        self.images = torch.randn(self.batch, 1, size, size, device=self.device)
        self.eulers = torch.rand(self.batch, 3, device=self.device) * 180
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=True)
        self.scores: Callable[..., Any] = self.network.scores

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def step(self) -> None:
        """A whole training step: forward, loss, backward, clipping, optimizer."""
        with self.autocast():
            loss = self.scores(self.images, self.eulers)[2].mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()

    @torch.inference_mode()
    def predict(self) -> Tensor:
        self.network.eval()
        with self.autocast():
            coefficients = self.network(self.images)
        self.network.train()
        return self.network.density.poses(coefficients, self.network.density.grid_values(coefficients))

    def parts(self) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
        """Each part with an input of the right shape."""
        network, found = self.network, {}
        x = self.images
        with torch.no_grad():
            for name in ("encoder", "projector", "s2conv", "activation", "so3conv"):
                part = getattr(network, name)
                found[name] = (part, x)
                with self.autocast_for(part):
                    x = part(x)
                x = x.float() if name == "projector" else x
        found["output grid"] = (network.density.grid_values, x)
        return found

    def autocast_for(self, part: object) -> Any:
        """As in `PoseNetwork.forward`: what comes after the projector stays in float32."""
        return self.autocast() if part in (self.network.encoder, self.network.projector) else nullcontext()

    def timed(self, part: Callable[[Tensor], Tensor], x: Tensor) -> list[str]:
        """Milliseconds a picture: forward alone, and forward and backward."""
        actions = (lambda: self.forward(part, x)), (lambda: self.forward_and_backward(part, x))
        return [f"{timed_ms(action, self.device) / self.batch:.2f}" for action in actions]

    @torch.no_grad()
    def forward(self, part: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with self.autocast_for(part):
            part(x)

    def forward_and_backward(self, part: Callable[[Tensor], Tensor], x: Tensor) -> None:
        x = x.detach().requires_grad_()
        with self.autocast_for(part):
            y = part(x)
        y.backward(torch.ones_like(y))


def report(name: str, machine: Machine, arguments: argparse.Namespace) -> None:
    bench = Bench(name, arguments)
    size = sum(parameter.numel() for parameter in bench.network.parameters())
    tables = sum(buffer.numel() * buffer.element_size() for buffer in bench.network.buffers()) / 1e6
    print(f"\n{name}, batch {bench.batch}: {size / 1e6:.1f} M weights, tables {tables:.0f} MB, built in {bench.built_s:.2f} s")
    parts = bench.parts()
    difference = largest_difference(bench.network.cpu(), parts["output grid"][1].cpu())
    bench.network.to(bench.device)
    dense = Bench(name, arguments, dense=True) if arguments.dense else None
    dense_parts = dense.parts() if dense else {}
    print("a picture      | ours ms: forward, + backward | dense ms: forward, + backward | GFLOP | at peak ms | GB | at copy ms")
    for part, (module, x) in parts.items():
        has_dense = dense and part in ("s2conv", "activation", "output grid")
        cells = bench.timed(module, x) + (dense.timed(*dense_parts[part]) if has_dense else ["", ""])  # type: ignore[union-attr]
        print_row(part, cells, cost_of(lambda m=module, x=x: bench.forward_and_backward(m, x)), machine, bench.batch)
    for whole in ("predict", "step"):
        ours = timed_ms(getattr(bench, whole), bench.device) / bench.batch
        theirs = timed_ms(getattr(dense, whole), bench.device, repeats=3) / bench.batch if dense else 0.0
        cells = [f"{ours:.1f}", "", f"{theirs:.1f}" if dense else "", ""]
        print_row(whole, cells, cost_of(getattr(bench, whole)), machine, bench.batch)
        if dense:
            print(f"   {whole}: {theirs / ours:.1f} times faster than the dense reference with the same encoder")
    icosahedral = Bench(name, arguments, symmetry="I")
    ratio = timed_ms(icosahedral.step, bench.device) / timed_ms(bench.step, bench.device)
    print(f"   a step under I takes {ratio:.2f} times that under C1; results differ from the dense ones by {difference:.0e}")
    if arguments.compile:
        report_compiled(bench)


def print_row(part: str, cells: list[str], cost: Any, machine: Machine, batch: int) -> None:
    arithmetic, traffic = machine.floor_ms(cost)
    values = [cost.flop / 1e9, arithmetic, cost.bytes / 1e9, traffic]
    text = " ".join(f"{cell:>9}" for cell in cells)
    print(f"{part:<14} {text}   " + " ".join(f"{value / batch:8.2f}" for value in values))


def report_compiled(bench: Bench) -> None:
    eager = timed_ms(bench.step, bench.device)
    bench.scores = torch.compile(bench.network.scores, fullgraph=True)
    started = time.perf_counter()
    bench.step()
    first = time.perf_counter() - started
    compiled = timed_ms(bench.step, bench.device)
    print(f"   compiled: first step {first:.0f} s, then {compiled / bench.batch:.1f} ms a picture, not {eager / bench.batch:.1f}")


def memory(name: str, arguments: argparse.Namespace, dense: bool) -> str:
    """The peak of three training steps: of the whole process on a processor, of tensors on a GPU."""
    command = [sys.executable, __file__, "--only", name, "--memory", "dense" if dense else "ours", "--batch", str(arguments.batch)]
    command += ["--device", arguments.device, "--precision", arguments.precision, "--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def print_memory(arguments: argparse.Namespace) -> None:
    before = peak_memory_gb()
    bench = Bench(arguments.only, arguments, dense=arguments.memory == "dense")
    for _ in range(3):
        bench.step()
    if bench.device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    else:
        print(f"{peak_memory_gb():.2f} GB, {before:.2f} GB of it before the network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--only", choices=SETTINGS)
    parser.add_argument("--memory", choices=("ours", "dense"), help="only the memory of --only")
    parser.add_argument("--dense", action="store_true", help="time the dense reference too: slow, and gigabytes of memory")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    if arguments.memory:
        print_memory(arguments)
        return
    device = torch.device(arguments.device)
    machine = measure_machine(device, torch.bfloat16 if arguments.precision == "bf16" else torch.float32)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} threads"
    print(
        f"{where}, {arguments.precision}: {machine.flop / 1e9:,.0f} GFLOP/s in products, {machine.bytes / 1e9:.0f} GB/s in copies"
    )
    for name in [arguments.only] if arguments.only else SETTINGS:
        report(name, machine, arguments)
        print(f"   peak memory of training steps: {memory(name, arguments, False)}")
        if arguments.dense:
            print(f"   and of the dense reference: {memory(name, arguments, True)}")


if __name__ == "__main__":
    main()
