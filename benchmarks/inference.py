"""What finding poses costs beside the network itself: reading and preparing pictures, modes, fit to the map, confidence.

    python benchmarks/inference.py [--threads 1] [--batch 32] [--top_k 1] [--device cuda] [--only NAME]

The floor is the network from prepared pictures to one pose, as `benchmarks/network.py` times it, in the same run. On a processor
all times are processor time; networks have random weights, which costs the same.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from counting import synchronise
from torch import Tensor

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.config.merge import load_config
from cryopares_core.inference.confidence import Judge
from cryopares_core.inference.models import TrainedModel
from cryopares_core.inference.policy import assign
from cryopares_core.inference.predict import PredictionSettings, ShardPredictor
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.model.modes import ModeFinder
from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.order import file_order
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.training.calibration import Signs
from cryopares_core.training.calibration_fit import fit_calibration
from cryopares_core.training.phases import Phases, peak_memory_gb
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

IMAGE2SPHERE = "models.image2sphere."
SMALL = ["lmax=6", "so3components.i2sprojector.sphere_fdim=128", "so3components.i2sprojector.hp_order=2"]
SMALL += ["so3components.s2conv.f_out=32", "so3components.s2conv.hp_order=2", "so3components.so3outputgrid.hp_order=3"]
# Box and pixel size of the pictures, those that the network is given, and the network's settings.
SETTINGS: dict[str, tuple[int, float, int, float, list[str]]] = {
    "guide, 200 to 160 px": (200, 1.5, 160, 1.875, []),
    "small, 64 px": (64, 4.0, 64, 4.0, [IMAGE2SPHERE + word for word in SMALL]),
}


def trained(folder: Path, size: int, sampling: float, settings: list[str]) -> TrainedModel:
    """A model with random weights, a map, and a calibration of invented particles."""
    config = load_config(None, settings)
    card = ModelCard("C1", sampling, size, 1, asdict(config), "allParticles")
    write_map(folder / "starting_map.mrc", phantom_map(size, sampling), sampling)
    draws = np.random.default_rng(0)
    stated, eulers = draws.uniform(0, 0.2, 500), draws.uniform(0, 180, (500, 3))
    calibration = fit_calibration(Signs(stated, eulers, stated * 2), np.where(draws.random(500) < 4 * stated, 2.0, 40.0), "C1")
    return TrainedModel(folder, card.network(), card, calibration)


def pictures(folder: Path, size: int, sampling: float, count: int) -> ParticleTable:
    settings = SimulationSettings(n_particles=count, snr=0.5, seed=0)
    return read_particles(simulate_particles(phantom_map(size, sampling), sampling, folder, settings), split_halfs=False)[0]


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Processor time, or time by the clock where a GPU works."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    synchronise(device)
    started = clock()
    work()
    synchronise(device)
    return clock() - started


def median_ms(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The median of some runs, after one to warm up."""
    work()
    return 1e3 * sorted(seconds_of(work, device) for _ in range(repeats))[repeats // 2]


def report(name: str, arguments: argparse.Namespace) -> None:
    raw_size, raw_sampling, size, sampling, settings = SETTINGS[name]
    device, batch = torch.device(arguments.device), arguments.batch
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model, table = (
            trained(folder, size, sampling, settings),
            pictures(folder / "particles", raw_size, raw_sampling, arguments.n),
        )
        model.network.to(device).eval()
        images = torch.randn(batch, 1, size, size, device=device)
        bfloat16 = uses_bfloat16(model.card.config["train"]["precision"], device)

        @torch.inference_mode()
        def network() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                coefficients = model.network(images)
            return coefficients

        @torch.inference_mode()
        def floor() -> Tensor:
            coefficients = network()
            return model.network.density.poses(coefficients, model.network.density.grid_values(coefficients))

        find, judge = ModeFinder(model.network.density, "C1", arguments.top_k), Judge([model], device)
        coefficients = network() * 20  # as peaked as a trained network's
        modes, first = find(coefficients), next(prepared_stream(table, file_order(table), model.card.preparation, device, batch))
        parts = {"network": network, "network and pose (the floor)": floor, "modes and their mass": lambda: find(coefficients)}
        parts["fit and confidence"] = lambda: judge(modes, images, first.ctf)
        print(f"\n{name}, batch {batch}, top {arguments.top_k}, {'bfloat16' if bfloat16 else 'float32'}")
        times = {part: median_ms(action, device) / batch for part, action in parts.items()}
        report_whole(model, table, device, arguments, times)


def report_whole(
    model: TrainedModel, table: ParticleTable, device: torch.device, arguments: argparse.Namespace, times: dict[str, float]
) -> None:
    """The stream of pictures alone, then everything together as `cryopares_infer` does it."""

    def stream() -> None:
        for _ in prepared_stream(table, file_order(table), model.card.preparation, device, arguments.batch):
            pass

    assignment, _ = assign("one_model", "allParticles", ["allParticles"], table.half_set)
    settings = PredictionSettings(arguments.batch, arguments.top_k)
    phases = Phases()
    whole = ShardPredictor(table, assignment, {"allParticles": model}, device, settings, phases)
    times["reading and preparing"] = median_ms(stream, device, 1) / len(table)
    times["everything, as it runs"] = median_ms(lambda: whole(file_order(table), lambda done: None), device, 1) / len(table)
    for part, value in times.items():
        print(f"   {part:<32}{value:8.2f} ms a picture")
    ratio = times["everything, as it runs"] / times["network and pose (the floor)"]
    print(f"   everything takes {ratio:.2f} times the floor: {1e3 / times['everything, as it runs']:.0f} particles/s")
    print(f"   peak memory {peak_memory_gb():.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--top_k", type=int, default=1)
    parser.add_argument("--n", type=int, default=512, help="pictures that are predicted")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=SETTINGS)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    for name in [arguments.only] if arguments.only else SETTINGS:
        report(name, arguments)


if __name__ == "__main__":
    main()
