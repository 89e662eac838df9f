"""The drug-discovery case from end to end: train on one state of a molecule, find the poses of another, and make its map.

    python benchmarks/second_state.py --out_dir OUT [--map_fname MAP.mrc] [--particles 10000] [--new_particles 4000]

Two states are made of one map: as it is, and with one domain (15 % of the mass) turned by 25 degrees. A network is trained on
particles of the first; poses of particles of the second come from it, are refined, and make a map. Beside it stands a refinement
from scratch in the project's own terms: an exhaustive search over all rotations against the first state's map, on some of the
particles. Commands that were done before are not done again.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from exhaustive import search_from_scratch
from torch import Tensor
from two_states import other_state

from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.particles.star import read_particles
from cryopares_core.volumes.fsc import resolution_angs, shell_correlation
from cryopares_core.volumes.maps import read_map, write_map
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.phantom import phantom_map

BOX, PIXEL_ANGS = 64, 4.0
NETWORK = [
    "datamanager.particlesDataset.sampling_rate_angs_for_nnet=7",
    "models.image2sphere.lmax=8",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=128",
    "models.image2sphere.so3components.s2conv.f_out=32",
    "models.image2sphere.so3components.so3outputgrid.hp_order=3",
]


def command(out_dir: Path, name: str, *words: str) -> float:
    """Run one of our commands, once; returns the seconds that it took, and keeps what it told."""
    log, seconds = out_dir / f"{name}.log", out_dir / f"{name}.seconds"
    if not seconds.exists():
        program = [sys.executable, "-m", f"cryopares_{name.split('-')[0]}", *words]
        started = time.perf_counter()
        with open(log, "a") as told:
            done = subprocess.run(program, stdout=told, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(log.read_text()[-2000:])
        seconds.write_text(f"{time.perf_counter() - started:.1f}")
    return float(seconds.read_text())


def make_states(arguments: argparse.Namespace, out_dir: Path) -> tuple[Path, Path]:
    """The maps of both states as files."""
    paths = out_dir / "first_state.mrc", out_dir / "second_state.mrc"
    volume, pixel = read_map(arguments.map_fname) if arguments.map_fname else (phantom_map(BOX, PIXEL_ANGS), PIXEL_ANGS)
    for path, state in zip(paths, (volume, other_state(np.asarray(volume))), strict=True):
        if not path.exists():
            write_map(path, state, pixel)
    return paths


def simulate(arguments: argparse.Namespace, out_dir: Path, state: Path, count: int, seed: int) -> Path:
    folder = out_dir / state.stem
    words = ["--map_fname", str(state), "--n_particles", str(count), "--snr", str(arguments.snr), "--seed", str(seed)]
    command(out_dir, f"simulate-{state.stem}", *words, "--out_dir", str(folder), "--overwrite")
    return folder


def train(arguments: argparse.Namespace, out_dir: Path, particles: Path) -> float:
    words = ["--symmetry", "C1", "--particles_star_fname", str(particles / "particles.star"), "--particles_dir", str(particles)]
    words += ["--train_save_dir", str(out_dir / "trained"), "--n_epochs", str(arguments.epochs), "--recipe", "fast"]
    return command(out_dir, "train", *words, "--n_threads", str(arguments.threads), "--config", *NETWORK)


def infer(arguments: argparse.Namespace, out_dir: Path, particles: Path, name: str, *more: str) -> tuple[Path, float]:
    """Poses of new particles by the trained network; the results' folder and the seconds."""
    found = out_dir / name
    words = ["--particles_star_fname", str(particles / "particles.star"), "--particles_dir", str(particles)]
    words += ["--checkpoint_dir", str(out_dir / "trained" / "version_0"), "--results_dir", str(found)]
    return found, command(out_dir, f"infer-{name}", *words, "--n_threads", str(arguments.threads), *more)


def told_of_poses(found: Tensor, truth: Tensor) -> str:
    error = pose_error_degs(found.double(), truth.double())
    return f"{error.mean():.1f}° mean, {error.median():.2f}° median, {(error < 5).double().mean():.0%} under 5°"


def poses_of(star: Path, particles: Path) -> tuple[Tensor, list[str]]:
    table, _ = read_particles(star, particles)
    return euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)), table.particles["rlnImageName"].tolist()


def resolution_against(map_path: Path, truth_path: Path) -> float:
    """Where the map's correlation with the truth falls below 0.5, Å."""
    (volume, pixel), (truth, _) = read_map(map_path), read_map(truth_path)
    sphere = soft_sphere(len(volume), 0.45 * len(volume), 3.0)
    first, second = (torch.from_numpy(one) * sphere for one in (volume, truth))
    return resolution_angs(shell_correlation(first, second), len(volume) * pixel, 0.5)


def compare(arguments: argparse.Namespace, out_dir: Path, states: tuple[Path, Path], new: Path) -> None:
    """Poses by the network, refined, and from scratch."""
    truth, names = poses_of(new / "particles.star", new)
    row = {name: place for place, name in enumerate(names)}
    refining = ["--refine", "--resolution_angs", "12", "--reconstruct"]
    for name, more in (("network", ["--reconstruct"]), ("refined", refining)):
        found, seconds = infer(arguments, out_dir, new, name, *more)
        poses, found_names = poses_of(found / "particles.star", new)
        own = truth[[row[one] for one in found_names]]
        resolution = resolution_against(found / "reconstruction" / "map.mrc", states[1])
        print(f"{name}: {told_of_poses(poses, own)}; map {resolution:.1f} Å; {seconds:.0f} s")
    table, _ = read_particles(new / "particles.star", new)
    some = table.subset(np.arange(arguments.searched))
    volume, pixel = read_map(states[0])
    poses, searching, refining_s = search_from_scratch(some, volume, pixel, 12.0)
    each = (searching + refining_s) / len(some)
    seconds = f"{searching:.0f} s to search and {refining_s:.0f} s to refine, {each * len(table):.0f} s for all"
    print(f"from scratch, {len(some)} of them: {told_of_poses(poses, truth[: len(some)])}; {seconds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--map_fname", help="of the first state; without it the project's phantom")
    parser.add_argument("--particles", type=int, default=10_000)
    parser.add_argument("--new_particles", type=int, default=4_000)
    parser.add_argument("--searched", type=int, default=500, help="of them from scratch too")
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out_dir = arguments.out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    states = make_states(arguments, out_dir)
    known = simulate(arguments, out_dir, states[0], arguments.particles, 1)
    new = simulate(arguments, out_dir, states[1], arguments.new_particles, 2)
    print(f"training: {train(arguments, out_dir, known):.0f} s")
    compare(arguments, out_dir, states, new)


if __name__ == "__main__":
    main()
