"""Reconstruction: particles a second from stacks to half maps, by phase, and against the least that their sums cost.

    python benchmarks/reconstruction.py --folder SCRATCH [--box 64 200] [--particles 4000] [--symmetry C1 D7 I]

Simulates particles of the phantom (SNR 0.1, float16) in the folder and removes them at the end. Seconds are of the processor, so
that other work on the machine matters less; two cores do twice as much. The floor of a picture is to add its frequencies, eight
corners each, with their weights, to sums that lie in the cache: what is left is transforms, CTF, places and misses of the cache.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.volumes.fourier_sums import BLOCK, sums_bytes
from cryopares_core.volumes.fsc import fsc_curves
from cryopares_core.volumes.half_maps import reconstruct_half_maps
from cryopares_core.volumes.insertion import Inserter
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles
from cryopares_core.volumes.symmetrise import symmetrise

EXTENT_ANGS = 320.0
PEER = {64: 354, 200: 72}  # particles a second of the public implementation on two cores
AT_ONCE = 64


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """The least of some tries, of the processor."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def floor_s(frequencies: int) -> float:
    """Adding one picture's frequencies to sums in the cache."""
    places = torch.randint(0, 4096, (8 * BLOCK,))
    values, weights = torch.zeros(4096, dtype=torch.complex64), torch.zeros(4096)
    more, weight = torch.ones(8 * BLOCK, dtype=torch.complex64), torch.ones(8 * BLOCK)

    def add() -> None:
        values.scatter_add_(0, places, more)
        weights.scatter_add_(0, places, weight)

    return seconds(add, 20) / BLOCK * frequencies


@contextmanager
def particles(folder: Path, box: int, count: int) -> Iterator[ParticleTable]:
    """Simulated ones, that are there for a while."""
    folder = folder / f"reconstruction_{box}"
    pixel = EXTENT_ANGS / box
    try:
        simulate_particles(
            phantom_map(box, pixel), pixel, folder, SimulationSettings(n_particles=count, snr=0.1, dtype="float16"), overwrite=True
        )
        yield read_particles(folder / "particles.star")[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def phases(table: ParticleTable, symmetries: list[str]) -> None:
    """What a picture costs, what the maps cost, in seconds of the processor."""
    n, box = len(table), int(table.image_size_px[0])
    inserter = Inserter(table, np.ones(n), None, "cpu")
    sums = inserter.new_sums()
    parts = np.array_split(np.arange(n), max(1, n // AT_ONCE))
    reading = seconds(lambda: [read_images(table, part) for part in parts]) / n
    pictures = [(part, read_images(table, part)) for part in parts]
    inserter.add(sums, *pictures[0])
    adding = seconds(lambda: [inserter.add(sums, *part) for part in pictures]) / n
    frequencies = inserter.frequencies
    least = floor_s(frequencies)
    rate = 1 / (reading + adding)
    print(f"| {box} px: to read a picture | {1e6 * reading:.0f} µs |")
    print(f"| to add it ({frequencies:,} frequencies; floor {1e6 * least:.0f} µs) | {1e6 * adding:.0f} µs |")
    peer = f", {2 * rate / PEER[box]:.0f} times the peer's {PEER[box]} on two cores" if box in PEER else ""
    print(f"| particles/s of one core | {rate:,.0f}{peer} |")
    sums.join_mates()
    for name in symmetries:
        group = point_group(name).matrices
        print(f"| to symmetrise one half's sums, {name} | {seconds(lambda group=group: symmetrise(sums, group)):.2f} s |")
    mapping = seconds(lambda: sums.map(0.01 * sums.shell_weights()))
    volume = sums.map(0.01 * sums.shell_weights())
    correlating = seconds(lambda: fsc_curves(volume, volume.roll(1, 0), soft_sphere(box), 1.0))
    print(f"| to make one of the three maps; correlations | {mapping:.2f} s; {correlating:.2f} s |")
    print(f"| one half's sums | {sums_bytes(box) / 1e9:.2f} GB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--box", type=int, nargs="+", default=[64, 200])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--symmetry", nargs="+", default=["D7", "I"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    keep_freed_memory()
    print("| | seconds of the processor |\n|---|---|")
    for box in arguments.box:
        with particles(arguments.folder, box, arguments.particles) as table:
            torch.set_num_threads(1)
            phases(table, arguments.symmetry)
            torch.set_num_threads(arguments.threads)
            started = time.perf_counter()
            found = reconstruct_half_maps(table)
            wall = time.perf_counter() - started
            print(f"| all of it, {arguments.threads} threads: {len(table):,} particles to half maps | {wall:.1f} s of the clock |")
            print(f"| resolution | {found.resolution_angs:.2f} Å |", flush=True)
    print(f"\nMost memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
