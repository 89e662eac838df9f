"""How the poses are found: each method of the accuracy benchmark is a real command in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import starfile
import torch
from accuracy_sets import ANGLES, TRUTH, Study
from second_state import NETWORK

from cryopares_core.geometry.grids import healpix_so3_grid
from cryopares_core.geometry.rotations import euler_degs_to_matrix

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
GRID_ORDER = 3  # of the networks here: 36,864 rotations, 7.5 degrees apart
# The published scheme: a point label on the nearest grid point (test_loss_becomes_that_of_the_nearest_grid_point).
POINT_LABEL = ["models.image2sphere.label_sigma_degs=0", "models.image2sphere.label_smoothing=0"]
PEER, MAP_ALONE = "nearest grid point", "map alone"
METHODS = {
    "network": ["--evidence", "network"],
    "network + refine": ["--evidence", "network", "--refine"],
    "both": ["--evidence", "both"],
    "both + refine": ["--evidence", "both", "--refine"],
    "map": ["--evidence", "map"],
    MAP_ALONE: [],
    PEER: ["--evidence", "network"],
}


@dataclass(frozen=True)
class Runner:
    """Runs commands; `prefix` are words before each, such as `nice -n 19`."""

    prefix: tuple[str, ...] = ()

    def __call__(self, words: list[str], log: Path, **variables: str) -> float:
        """Processor time of a command and its children in seconds, user and system. Ends the benchmark where it fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        before = _children_seconds()
        with open(log, "a", encoding="utf-8") as output:
            environment = {**os.environ, **ONE_THREAD, **variables}
            done = subprocess.run([*self.prefix, *words], stdout=output, stderr=subprocess.STDOUT, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}\n{log.read_text(encoding='utf-8')[-2000:]}")
        return _children_seconds() - before

    def program(self, name: str, words: list[str], log: Path) -> float:
        return self([sys.executable, "-m", f"cryopares_{name}", *words, "--n_threads", "1"], log)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def nearest_grid_points(eulers_degs: np.ndarray) -> np.ndarray:
    """The nearest rotations of the output grid to `(n, 3)` angles in degrees, as angles `(n, 3)`."""
    grid = healpix_so3_grid(GRID_ORDER)
    points = grid.eulers_degs(torch.arange(len(grid)))
    matrices = euler_degs_to_matrix(points).flatten(1)
    poses = euler_degs_to_matrix(torch.from_numpy(np.asarray(eulers_degs, dtype=float))).flatten(1).to(matrices)
    nearest = torch.cat([(part @ matrices.T).argmax(dim=1) for part in poses.split(256)])
    return points[nearest].numpy()


def move_to_grid(star: Path, out: Path) -> None:
    """Write a STAR file with every pose moved to the nearest rotation of the output grid."""
    blocks = starfile.read(star, always_dict=True)
    blocks["particles"][ANGLES] = nearest_grid_points(blocks["particles"][ANGLES].to_numpy())
    starfile.write(blocks, out, overwrite=True)


def train(study: Study, particles_dir: Path, save_dir: Path, run: Runner, point_label: bool = False) -> Path:
    """The trained network's folder `version_0`; a finished training is not repeated, an interrupted one resumes."""
    star = particles_dir / ("particles_labelnoise.star" if study.noisy_labels else TRUTH)
    if point_label:
        on_grid = particles_dir / f"on_grid_{star.name}"
        move_to_grid(star, on_grid)
        star = on_grid
    finished = save_dir / "seconds.txt"
    if not finished.exists():
        words = ["--symmetry", study.symmetry, "--particles_star_fname", str(star), "--particles_dir", str(particles_dir)]
        words += ["--train_save_dir", str(save_dir), "--n_epochs", str(study.epochs), "--recipe", "fast"]
        settings = ["--config", *NETWORK, *(POINT_LABEL if point_label else [])]
        command = [sys.executable, "-m", "cryopares_train", *words, "--n_threads", "1", *settings]
        seconds = run(command, save_dir / "train.log")
        finished.write_text(f"{seconds:.1f}")
    return save_dir / "version_0"


def reconstruct(study: Study, star: Path, particles_dir: Path, out_dir: Path, run: Runner) -> Path:
    """Half maps and map of particles with poses; the folder."""
    if not (out_dir / "reconstruction.json").exists():
        words = ["--particles_star_fname", str(star), "--particles_dir", str(particles_dir), "--symmetry", study.symmetry]
        run.program("reconstruct", [*words, "--out_dir", str(out_dir)], out_dir / "log.txt")
    return out_dir


@dataclass(frozen=True)
class Input:
    """What a method is given: a STAR file, the folder of its images, a trained network if it needs one, a folder with half maps."""

    star: Path
    particles_dir: Path
    network: Path | None
    reference: Path


def infer(study: Study, method: str, given: Input, out: Path, run: Runner) -> float:
    """Find poses by a method of `METHODS`; writes `out/particles.star` and returns the seconds of processor time."""
    words = ["--particles_star_fname", str(given.star), "--particles_dir", str(given.particles_dir), "--results_dir", str(out)]
    if method == MAP_ALONE:
        first, second = (str(given.reference / f"half{half}_map.mrc") for half in (1, 2))
        words += ["--symmetry", study.symmetry, "--reference_fname", first, "--reference_half2_fname", second]
    else:
        words += ["--checkpoint_dir", str(given.network), *METHODS[method]]
    if "--refine" in words:
        words += ["--resolution_angs", str(study.resolution_angs)]
    return run.program("infer", words, out / "log.txt")
