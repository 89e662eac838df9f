"""What the search costs beside the network: processor time an image, one thread.

    python benchmarks/search.py [--box 160] [--pixel 2.0] [--particles 128] [--config NAME=VALUE …]

Images of the project's phantom, and an untrained network with the guide's defaults (or the settings given): a network's time does
not depend on its weights. The floor is that of the matrix products alone, at the rate of a large product in the same run.
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

from cryopares_core.config.merge import load_config
from cryopares_core.inference.predict import PredictionSettings, pose_predictor
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.order import file_order
from cryopares_core.particles.star import read_particles
from cryopares_core.refinement.maps import Reference
from cryopares_core.search.calibrate import SearchCalibration, sample_of
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.settings import SearchSettings
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

CPU = torch.device("cpu")


def milliseconds(work: Callable[[], object], count: int, repeats: int = 3) -> float:
    """The median processor time of some work, for each of `count` images."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * float(np.median(times)) / count


def gflops() -> float:
    """The rate of a large matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / 1e6 / milliseconds(lambda: [a @ b for _ in range(5)], 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", type=int, default=160)
    parser.add_argument("--pixel", type=float, default=2.0)
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--config", nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    volume = phantom_map(arguments.box, arguments.pixel)
    with tempfile.TemporaryDirectory() as folder:
        settings = SimulationSettings(n_particles=arguments.particles, snr=0.1, seed=1)
        simulate_particles(volume, arguments.pixel, Path(folder), settings)
        table, _ = read_particles(Path(folder) / "particles.star")
        config = load_config(None, arguments.config)
        card = ModelCard("C1", arguments.pixel, arguments.box, 1, asdict(config), "half1", {})
        predict = pose_predictor([card.network()], card, CPU, PredictionSettings())
        batches = list(prepared_stream(table, file_order(table), card.preparation, CPU, 32))
        n = sum(len(batch.indices) for batch in batches)
        network = milliseconds(lambda: [predict(batch.images) for batch in batches], n)
        reference = Reference(volume, arguments.pixel)
        started = time.process_time()
        search = PoseSearch(table, {1: reference, 2: reference}, SearchSettings())
        shifts = torch.from_numpy(table.shifts_angs).float()
        SearchCalibration(search, sample_of(search), shifts).learn_weights()
        prepared = time.process_time() - started
        searched = milliseconds(
            lambda: [
                search(search.source.spectra_of(batch.indices, batch.raw), batch.indices, shifts[batch.indices])
                for batch in batches
            ],
            n,
        )
        spectra = milliseconds(lambda: [search.source.spectra_of(batch.indices, batch.raw) for batch in batches], n)
    likelihood = next(iter(search._likelihoods.values()))
    rate, products = gflops(), 3 * 2 * search.grid.n_rows * likelihood.xy.shape[1] / 1e6
    print(f"{arguments.box} px of {arguments.pixel} Å, {n} particles; {len(search.grid):,} rotations", end=" ")
    print(f"at {search.resolution_angs:.3g} Å")
    print(f"network {network:.1f} ms an image; search {searched:.2f} ms, {searched / network:.0%} of the network")
    print(f"  of it spectra and CTFs {spectra:.2f} ms; floor of the products {products / rate:.2f} ms at {rate:.0f} GFLOP/s")
    print(f"preparation of the search, once: {prepared:.1f} s")


if __name__ == "__main__":
    main()
