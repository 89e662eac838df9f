"""How much of a step of simulated pretraining goes into making the views.

    python benchmarks/pretraining.py [--threads 2] [--batch 64]

A step makes batch / 4 views, augments four copies of each and trains on them, as `cryopares_train` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from cryopares_core.config.merge import load_config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.views import SimulatedViews, ViewSimulator, usual_ctfs

COPIES = 4
SMALL = ("lmax=5", "so3components.i2sprojector.sphere_fdim=64", "so3components.s2conv.f_out=16")
SMALL += ("so3components.so3outputgrid.hp_order=2",)
DEMO = ("lmax=8", "so3components.i2sprojector.sphere_fdim=128", "so3components.s2conv.f_out=32")
DEMO += ("so3components.so3outputgrid.hp_order=3",)
SETTINGS = {
    "the tests' network, 32 px at 10 Å": (32, 10.0, SMALL),
    "the demo's network, 40 px at 8 Å": (40, 8.0, DEMO),
    "the demo's network, 64 px at 5 Å": (64, 5.0, DEMO),
    "the guide's defaults, 160 px at 1.5 Å": (160, 1.5, ()),
}


def median_ms(action: Callable[[], object], repeats: int) -> float:
    """Milliseconds, the median of some runs after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] * 1e3


def report(name: str, size: int, sampling: float, network_settings: tuple[str, ...], batch: int) -> None:
    config = load_config(None, [f"models.image2sphere.{setting}" for setting in network_settings])
    settings = PreprocessSettings(sampling_rate_angs=sampling, image_size_px=size)
    simulator = ViewSimulator(phantom_map(size, sampling), sampling, settings, usual_ctfs(), torch.device("cpu"))
    views = SimulatedViews(simulator, 10_000, 1, 0.1, seed=0)
    network, augmenter = PoseNetwork(config.models.image2sphere, "C1", size), Augmenter(config.datamanager.augmenter)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def train() -> None:
        images, eulers = augmenter(made.images.float().repeat(COPIES, 1, 1, 1), made.eulers_degs.repeat(COPIES, 1))
        coefficients = network(images)
        values = network.density.grid_values(coefficients)
        loss = network.density.loss(coefficients, values, eulers).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    count, repeats = batch // COPIES, 5 if size > 100 else 15
    made = views.__getitems__(range(count))
    simulation, training = median_ms(lambda: views.__getitems__(range(count)), repeats), median_ms(train, repeats)
    share = simulation / (simulation + training)
    text = f"{name}: {count / simulation * 1e3:,.0f} views/s; a step of {batch}: {simulation:.1f} ms to simulate, {training:.0f} ms"
    print(f"{text} to train; simulation {share:.1%}")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for name, (size, sampling, network_settings) in SETTINGS.items():
        report(name, size, sampling, network_settings, arguments.batch)


if __name__ == "__main__":
    main()
