"""Local refinement: how near it comes to the truth and to the best that the noise allows, and how fast, beside a grid search.

    python benchmarks/refinement.py --particles_dir SET --reference MAP [MAP_OF_HALF_2] [--start_degs 5] [--grid]

SET holds `particles.star` with the true poses, as `cryopares_simulate` and make_sets.py write them. Starts are the true poses
turned by an angle about any axis, and the true shifts moved by `--start_angs` (deviation) along each axis. With two maps, each of
one half of the particles, give that of half 2 first: then no particle is compared with a map that it is in. Times are of the
processor, so that other work on the machine does not count, on one thread but for the last line.

The least error possible is that of the best unbiased estimate of pose and shift together (Cramér and Rao): the median over drawn
errors whose covariance is the inverse of the information in each picture.

The floor: what a step has to read (a row of 80 bytes at a random place for each frequency) and to compute (400 operations for
each) at the rates at which this machine reads such rows and multiplies large matrices, measured here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, pose_error_degs, rotvec_to_matrix
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement import slices as slice_module
from cryopares_core.refinement.fit import FIRST, M, X, fit
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.refiner import Refiner
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.volumes.maps import read_map

T = TypeVar("T")
ROW_BYTES, OPERATIONS = 80, 400  # for each frequency and step
BOUND_PICTURES, BOUND_PADDING = 300, 3


def starts(table: ParticleTable, degs: float, angs: float) -> tuple[Tensor, Tensor]:
    """Poses `(n, 1, 3, 3)` and shifts `(n, 2)` in Å, so far from the truth."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.nn.functional.normalize(torch.randn(len(table), 3, generator=generator, dtype=torch.float64), dim=1)
    poses = rotvec_to_matrix(axes * degs / DEGREES) @ euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    return poses[:, None], torch.from_numpy(table.shifts_angs) + angs * torch.randn(len(table), 2, generator=generator)


def timed(action: Callable[[], T]) -> tuple[T, float, float]:
    """What it gives, and its seconds of the processor and of the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    result = action()
    return result, time.process_time() - processor, time.perf_counter() - clock


def tell(*cells: object) -> None:
    print(*cells, sep=" | ", flush=True)  # noqa: T201


def measure(
    table: ParticleTable, maps: dict[int, Reference], settings: RefineSettings, start: tuple[Tensor, Tensor], name: str
) -> None:
    """One line: errors and times."""
    n = len(table)
    refiner, set_up, _ = timed(lambda: Refiner(table, maps, settings))
    _, calibration, _ = timed(lambda: refiner.calibrate(*start))
    refined, seconds, wall = timed(lambda: refiner(np.arange(n), *start))
    truth = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    degs = pose_error_degs(torch.from_numpy(refined.poses).double(), truth)
    px = np.linalg.norm(refined.shifts_angs - table.shifts_angs, axis=1) / table.pixel_size_angs
    tell(
        name,
        f"median {degs.median():.2f}°, mean {degs.mean():.2f}°, over 3°: {(degs > 3).float().mean():.1%}",
        f"shift {np.median(px):.2f} px",
        f"score {refined.score.mean():.4f}, start kept {refined.kept_start.mean():.1%}",
        f"map {set_up:.1f} s, calibration {calibration:.1f} s, {n / seconds:.0f} a second and core ({n / wall:.0f} by the clock)",
    )


def least_error_degs(table: ParticleTable, maps: dict[int, Reference], settings: RefineSettings) -> float:
    """The median error of the best unbiased estimate."""
    few = table.subset(np.arange(min(len(table), BOUND_PICTURES)))
    poses, shifts = starts(few, 0.0, 0.0)
    before, slice_module.FINE_PADDING = slice_module.FINE_PADDING, BOUND_PADDING
    refiner = Refiner(few, maps, settings)
    slice_module.FINE_PADDING = before
    refiner.calibrate(poses, shifts)
    covariances = []
    for block in refiner.source.blocks(np.arange(len(few))):
        spectra = refiner.source.spectra(block)
        seen = refiner.weights[spectra.frequencies].observed(spectra)
        for slices, rows in refiner.maps.of(block.indices):
            places = block.rows[rows]
            part = seen.part(rows, len(spectra.frequencies))
            products = fit(slices, part, poses[places, 0].float(), shifts[places].float()).products.double()
            cross, norm = products[:, FIRST:, M], products[:, M, M]
            information = products[:, FIRST:, FIRST:] - cross[:, :, None] * cross[:, None] / norm[:, None, None]
            scale = (products[:, X, M] / norm).mean()
            # The complex noise has a deviation of 1, its two parts one of sqrt(1/2).
            covariances.append(torch.linalg.inv(2 * scale**2 * information)[:, :3, :3])
    root = torch.linalg.cholesky(torch.cat(covariances))
    drawn = root @ torch.randn(len(root), 3, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float((drawn.norm(dim=1) * DEGREES).median())


def floor(refiner: Refiner) -> str:
    """Milliseconds for a particle that reading rows and computing alone would take."""
    ((slices, kind), refine), *_ = refiner._refiners.items()
    visits = sum(count * (n_steps + 1) for count, n_steps in refine.plan) + len(kind)
    rows = slices._rows
    places = torch.randint(0, len(rows), (30_000,))
    matrix = torch.randn(1500, 1500)
    _, reading, _ = timed(lambda: [rows.index_select(0, places) for _ in range(20)])
    _, computing, _ = timed(lambda: [matrix @ matrix for _ in range(5)])
    row_s, operation_s = reading / (20 * len(places)), computing / (5 * 2 * 1500**3)
    return (
        f"{len(kind):,} frequencies, steps {refine.plan}: {visits:,} visited for a particle, {rows.nbytes / 1e6:.0f} MB of map. "
        f"Floor: {1e3 * visits * row_s:.2f} ms reading ({ROW_BYTES / row_s / 1e9:.1f} GB/s), "
        f"{1e3 * visits * OPERATIONS * operation_s:.2f} ms computing ({1e-9 / operation_s:.0f} GFLOP/s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles_dir", type=Path, required=True)
    parser.add_argument("--reference", nargs="+", required=True)
    parser.add_argument("--resolution_angs", type=float, default=8.0)
    parser.add_argument("--start_degs", type=float, nargs="+", default=[5.0])
    parser.add_argument("--start_angs", type=float, default=0.0)
    parser.add_argument("--n", type=int, help="so many of the particles")
    parser.add_argument("--grid", action="store_true", help="the grid search too")
    parser.add_argument("--threads", type=int, default=2, help="of the last line")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    table, _ = read_particles(arguments.particles_dir / "particles.star", arguments.particles_dir)
    table = table.subset(np.arange(min(len(table), arguments.n or len(table))))
    read = [Reference(*read_map(path)) for path in arguments.reference]
    maps = {1: read[0], 2: read[-1]}
    plain = RefineSettings(resolution_angs=arguments.resolution_angs)
    tell(floor(Refiner(table, maps, plain)))
    tell(f"least error possible: median {least_error_degs(table, maps, plain):.2f}°")
    for degs in arguments.start_degs:
        start = starts(table, degs, arguments.start_angs)
        for grid in (False, True) if arguments.grid else (False,):
            settings = RefineSettings(resolution_angs=arguments.resolution_angs, expected_error_degs=degs, grid_search=grid)
            measure(table, maps, settings, start, f"{'grid' if grid else 'climbing'} from {degs:g}°")
    torch.set_num_threads(arguments.threads)
    measure(table, maps, plain, starts(table, 5.0, arguments.start_angs), f"{arguments.threads} threads, from 5°")


if __name__ == "__main__":
    main()
