"""Iterated refinement of a new state from a related map: errors of the poses and the maps' resolution by iteration.

    python benchmarks/iterate.py --particles_dir SET --truth STATE_B.mrc --reference STATE_A.mrc [--copies 4] [--iterations 5]

SET holds `particles.star` with the true poses of state B. The starts are the true poses turned by about 3 degrees and moved by 2 Å,
5 % of them wrong altogether; they are refined against state A, and then against their own half maps. Angular errors leave out the
common rotation of all particles, which no map can tell. `domain` is the FSC of 0.5 with state B where it differs from state A.
Times are of the processor.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.geometry.alignment import common_turn
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, pose_error_degs, random_rotations, rotvec_to_matrix
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.half_sets import shards_of
from cryopares_core.refinement.iterate import iterate_refinement
from cryopares_core.refinement.iteration_run import POSES, IterateSettings
from cryopares_core.refinement.local_posterior import PosteriorPoses
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.refiner import refine_poses
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.volumes.fsc import resolution_angs, shell_correlation
from cryopares_core.volumes.half_map_files import HALVES, MAP
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.masks import soft_sphere

MEDIAN_OF_NORMAL_3D = 1.538  # of the length of a vector of three normal numbers


def starts(table: ParticleTable, degs: float, angs: float, wrong: float) -> tuple[Tensor, Tensor]:
    """Poses `(n, 3, 3)` with a median error of `degs` and shifts `(n, 2)`; a share of them wrong."""
    generator, n = torch.Generator().manual_seed(1), len(table)
    turns = torch.randn(n, 3, generator=generator, dtype=torch.float64) * degs / MEDIAN_OF_NORMAL_3D / DEGREES
    poses = rotvec_to_matrix(turns) @ euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    bad = torch.rand(n, generator=generator) < wrong
    poses[bad] = random_rotations(n, generator).double()[bad]
    return poses, torch.from_numpy(table.shifts_angs) + angs * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def errors_text(table: ParticleTable, poses: Tensor, shifts: np.ndarray) -> str:
    """Errors of poses, each half set after its own common rotation, and the rotation between the half sets."""
    truth, one = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)), torch.eye(3, dtype=torch.float64)[None]
    degs, turns = torch.zeros(len(table), dtype=torch.float64), []
    for half in (1, 2):
        rows = torch.from_numpy(table.half_set == half)
        near = rows & (pose_error_degs(poses, truth) < 10) if (pose_error_degs(poses, truth) < 10)[rows].any() else rows
        turns.append(common_turn(poses[near], truth[near], one))
        degs[rows] = pose_error_degs(poses[rows] @ turns[-1], truth[rows])
    right = degs[degs < 10]
    angs = np.linalg.norm(shifts - table.shifts_angs, axis=1)
    return (
        f"{degs.median():.2f}° median, {right.mean():.2f}° mean of those under 10°, {(degs >= 10).double().mean():.1%} over; "
        f"shift {np.median(angs):.2f} Å; common rotation {float(pose_error_degs(turns[0][None], one)[0]):.2f}°, between half sets "
        f"{float(pose_error_degs(turns[0][None], turns[1][None])[0]):.2f}°"
    )


def maps_text(folder: Path, truth: np.ndarray, reference: np.ndarray, radius_angs: float) -> str:
    """Resolution (FSC 0.5) against the truth of the map, of a half map, and where the states differ."""
    (volume, pixel), (half, _) = read_map(folder / MAP), read_map(folder / HALVES[0])
    n, changed = len(truth), gaussian_filter(np.abs(truth - reference), 1)
    domain = gaussian_filter((changed > 0.15 * np.abs(truth - reference).max()).astype(float), 1.5)
    sphere = soft_sphere(n, radius_angs / pixel).numpy()
    found = []
    for one, mask in ((volume, sphere), (half, sphere), (volume, domain)):
        first, second = (torch.from_numpy((values * mask).astype(np.float32)) for values in (one, truth))
        found.append(resolution_angs(shell_correlation(first, second), n * pixel, 0.5))
    return "against the truth {:.2f} Å, half map {:.2f} Å, domain {:.2f} Å".format(*found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles_dir", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--radius_angs", type=float, default=110.0)
    parser.add_argument("--first_angs", type=float, default=15.0, help="resolution limit against the reference")
    parser.add_argument("--wrong", type=float, default=0.05)
    parser.add_argument("--equal_weights", action="store_true", help="not by the correlation with the map")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    table, _ = read_particles([arguments.particles_dir / "particles.star"], arguments.particles_dir)
    (truth, pixel), (reference, _) = read_map(arguments.truth), read_map(arguments.reference)
    poses, shifts = starts(table, 3.0, 2.0, arguments.wrong)
    print("starts:", errors_text(table, poses, shifts.numpy()), flush=True)
    began, one = time.process_time(), Reference(reference, pixel)
    local = RefineSettings(resolution_angs=arguments.first_angs, mask_radius_angs=arguments.radius_angs)
    first = refine_poses(table, {1: one, 2: one}, poses[:, None], shifts, local)
    poses, shifts = torch.from_numpy(first.poses), torch.from_numpy(first.shifts_angs)
    print(f"state A, {time.process_time() - began:.1f} s:", errors_text(table, poses.double(), shifts.numpy()), flush=True)
    settings = IterateSettings(
        arguments.iterations,
        mask_radius_angs=arguments.radius_angs,
        copies=arguments.copies,
        weight_by_score=not arguments.equal_weights,
    )
    with tempfile.TemporaryDirectory() as folder:
        for count in range(arguments.iterations + 1):  # each resumes the one before
            began = time.process_time()
            upto = IterateSettings(**{**vars(settings), "max_iterations": count})
            done = iterate_refinement(table, poses, shifts, upto, Path(folder))
            if len(done.iterations) <= count:
                break
            last = done.iterations[-1]
            print(
                f"iteration {count}, {time.process_time() - began:.1f} s: FSC 0.143 {last.resolution_angs:.2f} Å, 0.5 "
                f"{last.limit_angs:.2f} Å, {maps_text(last.folder, truth, reference, arguments.radius_angs)}; moved "
                f"{last.moved_degs:.2f}° {last.moved_angs:.2f} Å; best is {done.best.number}",
                flush=True,
            )
            if count:
                found = shards_of(last.folder / POSES, table, settings.chunk_size).read(PosteriorPoses)
                print("   ", errors_text(table, torch.from_numpy(found.poses).double(), found.shifts_angs), flush=True)


if __name__ == "__main__":
    main()
