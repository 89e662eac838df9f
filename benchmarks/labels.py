"""How well wrong known poses are found, and what they do to a training, with `train.label_cleaning` and without.

    python benchmarks/labels.py find SET [SET …] [--wrong clean file 0.12] [--particles 2200] [--in_map 1800]
    python benchmarks/labels.py train SET --test SET --out_dir OUT [--wrong 0.12] [--particles 4000] [--epochs 8] [--seeds 1 2]

A SET is a folder with `particles.star` of true poses, `particles_labelnoise.star` and `info.json` with the symmetry. Labels are
the true poses (clean), those of particles_labelnoise.star (file), or off by 2 degrees with a share of them drawn anew (a number).
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from second_state import NETWORK
from torch import Tensor

from cryopares_core.config.model_fit import disc_radius_angs
from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs, random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.prediction import PosePredictor
from cryopares_core.model.storage import load_model
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.prepare import complete_settings, prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.maps import Reference
from cryopares_core.training.labels import LabelJudge, label_quality
from cryopares_core.training.starting_map import KnownParticles, make_starting_map

SAMPLING_ANGS, CPU = 7.0, torch.device("cpu")
LABEL_DEVIATION_DEGS, WRONG_DEGS = 2.0, 15.0


def labelled(folder: Path, wrong: str) -> ParticleTable:
    """The particles of a set with the labels that are asked for."""
    table, _ = read_particles(folder / ("particles_labelnoise.star" if wrong == "file" else "particles.star"), folder)
    if wrong in ("file", "clean"):
        return table
    rng = np.random.default_rng(1)
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    turns = torch.from_numpy(np.radians(rng.normal(0, LABEL_DEVIATION_DEGS / 3**0.5, (len(table), 3))))
    skew = torch.zeros(len(table), 3, 3, dtype=torch.float64)
    skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0] = turns.unbind(1)
    poses = torch.linalg.matrix_exp(skew - skew.mT) @ poses
    drawn = torch.from_numpy(rng.random(len(table)) < float(wrong))
    poses[drawn] = random_rotations(int(drawn.sum()), torch.Generator().manual_seed(2)).double()
    return table.with_poses(matrix_to_euler_degs(poses).numpy())


def errors_of(table: ParticleTable, folder: Path, group: Tensor) -> np.ndarray:
    """Of labels against the true poses, degrees."""
    truth, _ = read_particles(folder / "particles.star", folder)
    poses = [euler_degs_to_matrix(torch.from_numpy(one.eulers_deg[: len(table)])) for one in (table, truth)]
    return np.asarray(pose_error_degs(*poses, group))


def find(folder: Path, wrong: str, count: int, n_in_map: int) -> None:
    """Print how many wrong labels are found, among the particles that the map is made of and among others."""
    table = labelled(folder, wrong).subset(np.arange(count))
    symmetry = json.loads((folder / "info.json").read_text())["symmetry"]
    group = point_group(symmetry).matrices
    settings = complete_settings(table, PreprocessSettings(sampling_rate_angs=SAMPLING_ANGS))
    sampling, size = float(settings.sampling_rate_angs or 0), int(settings.image_size_px or 0)
    known = KnownParticles(prepare_particles(table, settings), torch.from_numpy(table.eulers_deg).float(), ctf_tensors(table.ctf))
    made = make_starting_map(known, torch.arange(n_in_map), torch.arange(min(500, n_in_map)), settings, group, CPU)
    started = time.process_time()
    radius = disc_radius_angs(settings.mask_radius_angs, size, sampling)
    quality = label_quality(LabelJudge(table, Reference(made.volume.numpy(), sampling), symmetry, radius, CPU).log_ratio())
    milliseconds = 1000 * (time.process_time() - started) / count
    is_wrong = errors_of(table, folder, group) > WRONG_DEGS
    told = [f"{folder.name}, {wrong}: {is_wrong.mean():.2%} wrong, found {quality.wrong_share:.2%} ± {quality.share_error:.2%}"]
    for title, part in (("in the map", slice(0, n_in_map)), ("others", slice(n_in_map, None))):
        suspect, bad = quality.suspect[part], is_wrong[part]
        told.append(f"{title}: {suspect.sum()} suspects, {(suspect & bad).sum()} of the {bad.sum()} wrong ones")
    print("; ".join([*told, f"{milliseconds:.1f} ms a particle"]), flush=True)


def train(arguments: argparse.Namespace, folder: Path, wrong: str, seed: int, cleaning: bool) -> None:
    """Train on labels, and print the errors on other particles against the truth."""
    out_dir = arguments.out_dir / f"{folder.name}-{wrong}-{seed}-{cleaning}"
    out_dir.mkdir(parents=True, exist_ok=True)
    star = out_dir / "particles.star"
    if not star.exists():
        table = labelled(folder, wrong)
        table.subset(np.arange(min(arguments.particles, len(table)))).write_star(star)
    symmetry = json.loads((folder / "info.json").read_text())["symmetry"]
    words = ["--symmetry", symmetry, "--particles_star_fname", str(star), "--particles_dir", str(folder), "--recipe", "fast"]
    words += ["--train_save_dir", str(out_dir), "--n_epochs", str(arguments.epochs), "--n_threads", "1", "--split_halfs", "False"]
    settings = [*NETWORK, f"train.seed={seed}", f"train.label_cleaning={cleaning}"]
    with open(out_dir / "log.txt", "a") as log:
        subprocess.run([sys.executable, "-m", "cryopares_train", *words, "--config", *settings], stdout=log, stderr=log, check=True)
    error = errors_of_model(out_dir / "version_0" / "allParticles", arguments.test)
    told = f"mean {error.mean():.2f}°, median {error.median():.2f}°, {(error < 5).double().mean():.1%} under 5°"
    print(f"{folder.name}, {wrong} wrong, seed {seed}, label_cleaning={cleaning}: {told}", flush=True)


def errors_of_model(folder: Path, test: Path) -> Tensor:
    """`(n,)` degrees, of the particles of another set."""
    network, card = load_model(folder)
    table, _ = read_particles(test / "particles.star", test)
    predict = PosePredictor([network], card.mask(), card.symmetry, CPU, False)
    found = torch.cat([predict(part).poses[:, 0] for part in prepare_particles(table, card.preparation).split(64)])
    truth = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    return pose_error_degs(found.double(), truth, point_group(card.symmetry).matrices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("find", "train"))
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--wrong", nargs="+", default=["clean", "file", "0.12"])
    parser.add_argument("--particles", type=int, default=2200)
    parser.add_argument("--in_map", type=int, default=1800)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--out_dir", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for folder in arguments.sets:
        for wrong in arguments.wrong:
            if arguments.what == "find":
                find(folder, wrong, arguments.particles, arguments.in_map)
                continue
            for seed in arguments.seeds:
                for cleaning in (False, True):
                    train(arguments, folder, wrong, seed, cleaning)


if __name__ == "__main__":
    main()
