"""How fast networks learn: the error of held-out particles against time and steps, for several settings and seeds.

    python benchmarks/learning.py --particles_dir SET --symmetry C1 --sampling_rate 10 --seconds 150 --seeds 3 \
        --setting "U-Net=" --setting "resnet18=models.image2sphere.imageencoder.resnet.resnetName=resnet18"

SET is a folder with particles.star. Each --setting is a name and overrides of the configuration, apart by spaces. Every network
trains for the same processor time, on one thread, with the schedule laid out for the steps that fit; the time is that of the
training steps alone, and counts the work of this process, not what else the machine does. One line a run is appended
to --out as JSON; the table that is printed has the medians over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.merge import load_config
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.batches import EpochLoader, PreparedDataset, split_particles
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.store import PreparedPictures
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.half_set import Particles
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan
from cryopares_core.training.schedule import Schedule
from cryopares_core.training.settings import settings_for_particles
from cryopares_core.training.starting_map import make_starting_map
from cryopares_core.training.step import STATISTICS, TrainingStep

NETWORK = [
    "models.image2sphere.lmax=8",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=128",
    "models.image2sphere.so3components.i2sprojector.hp_order=3",
    "models.image2sphere.so3components.s2conv.f_out=32",
    "models.image2sphere.so3components.s2conv.hp_order=3",
    "models.image2sphere.so3components.so3outputgrid.hp_order=3",
    "models.image2sphere.imageencoder.resnet.output_stride=8",
    "train.val_fraction=0.1",
]
MILESTONES = (30, 10)
PACE_STEPS = 12
LOOKS, LOOKED_AT = 15, 300  # how often the held-out particles are looked at, and how many


class Curve:
    """Errors of held-out particles at regular steps, with the processor time of the steps before."""

    def __init__(self, steps: int, images: torch.Tensor, eulers_degs: torch.Tensor):
        self.steps, self.every = steps, max(1, steps // LOOKS)
        self.images, self.truth = images, euler_degs_to_matrix(eulers_degs)
        self.points: list[dict[str, float]] = []
        self.seconds, self.since = 0.0, time.process_time()

    def look(self, done: int, module: PoseTraining) -> None:
        """To be called after each step, with how many there were."""
        if done % self.every and done != self.steps:
            return
        self.seconds += time.process_time() - self.since
        errors = held_out_errors(module, self.images, self.truth)
        point = {"step": done, "seconds": round(self.seconds, 1)}
        self.points.append(point | {"mean": round(float(errors.mean()), 2), "median": round(float(errors.median()), 2)})
        self.since = time.process_time()


def train(plan: Plan, module: PoseTraining, loader: EpochLoader, curriculum: NoiseCurriculum | None, curve: Curve) -> None:
    """As `cryopares_train` does it, but for validation, and with a rate that follows the schedule alone: there are no epochs
    here whose losses could stand still.
    """
    settings = plan.config.train
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    wrapped, optimizer = plan.fabric.setup(module, optimizer)
    schedule = Schedule(optimizer, curve.steps, settings.patient_reduce_lr_plateau_n_epochs)
    take_step = TrainingStep(plan.fabric, wrapped, optimizer, plan.config, curriculum, settings.seed)
    batches = chain.from_iterable(loader.epoch(number) for number in count())
    module.train()
    for place, batch in enumerate(islice(batches, curve.steps)):
        schedule.apply(place)
        noisy = curriculum is None or curriculum.finished
        found = take_step([batch], place, place / curve.steps, noisy, stop=False)
        if curriculum is not None:
            curriculum.advance(found[STATISTICS.index("median_degs")], place, curve.steps)
        curve.look(place + 1, module)


@torch.inference_mode()
def held_out_errors(module: PoseTraining, images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    network = module.network.eval()
    poses = []
    for part in images.split(100):
        coefficients = network(part.float() * module.mask)
        poses.append(network.density.poses(coefficients, network.density.grid_values(coefficients), 3))
    module.train()
    return pose_error_degs(torch.cat(poses), truth, module.group)


class Study:
    """One set, prepared once; trains a network for given overrides, seed and time."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.table, _ = read_particles(f"{arguments.particles_dir}/particles.star", [arguments.particles_dir])
        self.particles = Particles(self.table, PreparedPictures(prepare_particles(self.table, self._plan([], 0).preprocessing)))

    def _plan(self, overrides: list[str], seed: int) -> Plan:
        sampling = f"datamanager.particlesDataset.sampling_rate_angs_for_nnet={self.arguments.sampling_rate}"
        config = load_config(None, [*NETWORK, sampling, f"train.seed={seed}", *overrides])
        options = TrainArguments(symmetry=self.arguments.symmetry, batch_size=self.arguments.batch_size)
        preprocessing = settings_for_particles(config, self.table)
        return Plan(options, config, self.arguments.symmetry, preprocessing, torch.device("cpu"), Phases())

    def run(self, overrides: list[str], seed: int, seconds: float) -> list[dict[str, float]]:
        """The error's curve of a network that trains for so many seconds."""
        pace = self._train(overrides, seed, PACE_STEPS)[-1]["seconds"] / PACE_STEPS
        return self._train(overrides, seed, max(LOOKS, round(seconds / pace)))

    def _train(self, overrides: list[str], seed: int, steps: int) -> list[dict[str, float]]:
        plan = self._plan(overrides, seed)
        torch.manual_seed(seed)
        train_ids, val_ids = split_particles(self.table.half_set * 0, plan.config.train.val_fraction, 0)[0]
        held_out, angles = torch.from_numpy(val_ids)[:LOOKED_AT], self.particles.known.eulers_degs
        curriculum = self._curriculum(plan, torch.from_numpy(train_ids), held_out)
        module = PoseTraining(plan.network(), plan.symmetry, plan.mask, plan.config.train.precision == "bf16")
        loader = EpochLoader(PreparedDataset(self.particles.images, angles, train_ids), plan.particles_per_batch, seed)
        curve = Curve(steps, self.particles.images[held_out], angles[held_out])
        train(plan, module, loader, curriculum, curve)
        return curve.points

    def _curriculum(self, plan: Plan, ids: torch.Tensor, held_out: torch.Tensor) -> NoiseCurriculum | None:
        if not plan.config.train.noise_curriculum:
            return None
        group = point_group(plan.symmetry).matrices
        return NoiseCurriculum(
            make_starting_map(self.particles.known, ids, held_out, plan.preprocessing, group, plan.device), group
        )


def milestones(points: list[dict[str, float]]) -> dict[str, float | None]:
    """Steps and seconds until the median error first fell below each milestone."""
    found: dict[str, float | None] = {}
    for limit in MILESTONES:
        first = next((point for point in points if point["median"] < limit), None)
        found[f"steps_to_{limit}"] = first["step"] if first else None
        found[f"seconds_to_{limit}"] = first["seconds"] if first else None
    return found


def table_row(name: str, runs: list[dict[str, Any]]) -> str:
    def middle(key: str) -> str:
        values = [run[key] for run in runs]
        reached = [value for value in values if value is not None]
        return f"{statistics.median(reached):g} ({len(reached)}/{len(values)})" if reached else "not reached"

    medians = " / ".join(f"{run['median']:.1f}" for run in runs)
    means = " / ".join(f"{run['mean']:.1f}" for run in runs)
    marks = " | ".join(middle(f"{kind}_to_{limit}") for limit in MILESTONES for kind in ("steps", "seconds"))
    return f"| {name} | {runs[0]['seconds'] / runs[0]['step'] * 1e3:.0f} | {runs[0]['step']:g} | {marks} | {medians} | {means} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles_dir", required=True)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--sampling_rate", type=float, default=10.0)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--setting", action="append", required=True, help="NAME=override override ...")
    parser.add_argument("--out", default="learning.jsonl")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    study, rows = Study(arguments), []
    for setting in arguments.setting:
        name, _, overrides = setting.partition("=")
        runs = []
        for seed in range(arguments.seeds):
            points = study.run(overrides.split(), seed, arguments.seconds)
            runs.append(milestones(points) | points[-1])
            line = {"set": Path(arguments.particles_dir).name, "setting": name, "seed": seed, **runs[-1], "curve": points}
            with open(arguments.out, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
        rows.append(table_row(name, runs))
    marks = " | ".join(f"{kind} to {limit}°" for limit in MILESTONES for kind in ("steps", "s"))
    print(f"| setting | ms a step | steps | {marks} | median errors | mean errors |")  # noqa: T201
    print("\n".join(["|---" * (3 + 2 * len(MILESTONES) + 2) + "|", *rows]))  # noqa: T201


if __name__ == "__main__":
    main()
