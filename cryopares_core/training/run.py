"""A whole training run: check, read, prepare, then one model for each half set."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

import cryopares_core
from cryopares_core.config.merge import to_yaml
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.files import write_text
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.batches import split_particles
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.report import write_report
from cryopares_core.progress import Countdown
from cryopares_core.training.account import KeptWarnings, kept_warnings, reported
from cryopares_core.training.checks import run_problems
from cryopares_core.training.fit import Plan, StageResult
from cryopares_core.training.gallery import save_gallery
from cryopares_core.training.half_set import HalfSet, Particles, train_half_set
from cryopares_core.training.phases import Phases
from cryopares_core.training.pretraining import (
    DEFAULT_EPOCHS,
    DEFAULT_VIEWS,
    SIMULATED,
    SimulatedMap,
    Simulation,
    make_simulation,
    pretrain,
)
from cryopares_core.training.settings import settings_for_map, settings_for_particles
from cryopares_core.volumes.views import usual_ctfs

logger = logging.getLogger(__name__)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and notices are not for our users


def run_training(arguments: Any, config: Config, phases: Phases, continued_dir: Path | None = None) -> Path:
    """Train as asked and return the run's folder `version_N`. Nothing is written before the input is read and prepared.

    Parameters
    ----------
    arguments : a `TrainArguments`
    continued_dir : the folder of an earlier run that goes on to `arguments.n_epochs` epochs in all

    Raises
    ------
    UserError : anything in the input or the settings that the user can mend
    """
    group = point_group(arguments.symmetry)
    problems = config.batch_problems(arguments.batch_size) + run_problems(arguments, config)
    if problems:
        raise UserError(problems)
    device = choose_device(arguments.accelerator, arguments.n_threads)
    with kept_warnings() as warnings:
        run = _Run(arguments, config, group.name, device, phases, warnings, continued_dir)
        results = run.on_particles() if arguments.particles_star_fname else run.on_views()
    logger.info("%s", _summary(run.folder, results))
    logger.info("%s", phases.table())
    return run.folder


@dataclass
class _Run:
    """What a run was asked for; `folder` is there as soon as something is written."""

    arguments: Any
    config: Config
    symmetry: str
    device: torch.device
    phases: Phases
    warnings: KeptWarnings
    continued_dir: Path | None
    folder: Path = Path()

    def on_particles(self) -> list[StageResult]:
        """One model for each half set, or one for all particles."""
        arguments = self.arguments
        with self.phases("reading"):
            simulated_map = self._map()
            table = _read(arguments, self.config)
            plan = self._plan(settings_for_particles(self.config, table))
            parts = _split(table, arguments, self.config)
        with self.phases("preparing"):
            progress = Countdown("Prepared", "pictures")
            particles = Particles(table, prepare_particles(table, plan.preprocessing, self.device, progress=progress))
        simulation = self._simulation(plan, simulated_map, table)
        self._begin(plan, len(table), [_half_name(number) for number in parts], simulation.n_epochs if simulation else 0)
        halves = [HalfSet(number, self.folder / _half_name(number), *ids) for number, ids in parts.items()]
        with self.phases("pictures"):
            save_gallery(self.folder, plan, particles, halves[0].train_ids)
        with reported(self.folder):
            return [self._half_set(plan, particles, half, simulation) for half in halves]

    def _half_set(self, plan: Plan, particles: Particles, half: HalfSet, simulation: Simulation | None) -> StageResult:
        """Train one half set and bring the run's report up to date."""
        logger.info("%s: %s particles to train on, %s to validate", half.name, f"{len(half.train_ids):,}", f"{len(half.val_ids):,}")
        result = train_half_set(plan, particles, half, simulation, resume=self.continued_dir is not None)
        with self.phases("pictures"):
            write_report(self.folder)
        return result

    def on_views(self) -> list[StageResult]:
        """One model, on simulated views of the map alone."""
        with self.phases("reading"):
            simulated_map = self._map()
        if simulated_map is None:
            raise UserError("Give --particles_star_fname, or --map_fname_for_simulated_pretraining.")
        plan = self._plan(settings_for_map(self.config, len(simulated_map.volume), simulated_map.pixel_size_angs))
        simulation = make_simulation(plan, simulated_map, usual_ctfs(self.config.train.seed), self.arguments.n_epochs)
        self._begin(plan, 0, [SIMULATED], 0)
        lightning.seed_everything(self.config.train.seed, verbose=False)
        folder, resume = self.folder / SIMULATED, self.continued_dir is not None
        with reported(self.folder):
            result = pretrain(plan, simulation, folder, SIMULATED, DEFAULT_VIEWS, 0, plan.network(), resume)
        with self.phases("pictures"):
            write_report(self.folder)
        return [result]

    def _map(self) -> SimulatedMap | None:
        path = self.arguments.map_fname_for_simulated_pretraining
        return SimulatedMap.read(path) if path else None

    def _simulation(self, plan: Plan, simulated_map: SimulatedMap | None, table: ParticleTable) -> Simulation | None:
        if simulated_map is None:
            return None
        n_epochs = self.config.train.n_epochs_simulation or DEFAULT_EPOCHS
        logger.info("First %d epochs on simulated views of %s", n_epochs, self.arguments.map_fname_for_simulated_pretraining)
        return make_simulation(plan, simulated_map, ctf_tensors(table.ctf), n_epochs)

    def _plan(self, preprocessing: PreprocessSettings) -> Plan:
        return Plan(self.arguments, self.config, self.symmetry, preprocessing, self.device, self.phases)

    def _begin(self, plan: Plan, n_particles: int, half_sets: list[str], n_epochs_simulation: int) -> None:
        """Make the run's folder, with its description."""
        self.folder = self.continued_dir or _new_version_dir(Path(self.arguments.train_save_dir))
        self.warnings.write_to(self.folder)
        _write_description(self.folder, plan, n_particles, half_sets, n_epochs_simulation)


def _half_name(number: int) -> str:
    return f"half{number}" if number else "allParticles"


def choose_device(accelerator: str, n_threads: int | None) -> torch.device:
    """The GPU where there is one and the user doesn't mind, else the CPU; says which."""
    if n_threads:
        # More threads than the job may use would wait for each other.
        torch.set_num_threads(min(n_threads, len(os.sched_getaffinity(0))))
    if accelerator != "cpu" and torch.cuda.is_available():
        logger.info("Computing on %s", torch.cuda.get_device_name(0))
        torch.set_float32_matmul_precision("high")
        return torch.device("cuda", 0)
    if accelerator == "gpu":
        raise UserError("--accelerator=gpu: PyTorch sees no GPU. Check the driver (nvidia-smi), or use --accelerator auto or cpu.")
    logger.info("No GPU found or wanted: computing on the CPU with %d threads", torch.get_num_threads())
    return torch.device("cpu")


def _read(arguments: Any, config: Config) -> ParticleTable:
    table, remarks = read_particles(
        arguments.particles_star_fname,
        arguments.particles_dir,
        needs_ctf=config.datamanager.particlesDataset.ctf_correction != "none",
        split_halfs=arguments.split_halfs,
    )
    for remark in remarks:
        logger.warning("%s", remark)
    n_stacks = len(table.stack_paths)
    logger.info("Read %s particles in %s stack%s", f"{len(table):,}", f"{n_stacks:,}", "s" if n_stacks > 1 else "")
    return table


def _split(table: ParticleTable, arguments: Any, config: Config) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Training and validation particles by half set; 0 stands for all in one."""
    half_set = table.half_set if arguments.split_halfs else np.zeros(len(table), dtype=np.int8)
    data = config.datamanager
    parts = split_particles(half_set, config.train.val_fraction, config.train.seed)
    needed = arguments.batch_size // (data.num_augmented_copies_per_batch if data.augment_train else 1)
    smallest = min(len(train_ids) for train_ids, _ in parts.values())
    if smallest < max(2, needed):
        raise UserError(
            f"Only {smallest} particles would be left for training in a half set, fewer than the {needed} of one batch. "
            f"Give more particles, lower --batch_size (now {arguments.batch_size}), or use --split_halfs False."
        )
    return parts


def _new_version_dir(save_dir: Path) -> Path:
    """Make and return the first `version_N` that is not there yet."""
    save_dir.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = save_dir / f"version_{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _write_description(run_dir: Path, plan: Plan, n_particles: int, half_sets: list[str], n_epochs_simulation: int) -> None:
    """`config.yml` and `run.json`: what was asked, of which version, on what."""
    write_text(run_dir / "config.yml", to_yaml(plan.config))
    description = {
        "cryopares": cryopares_core.__version__,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "command": sys.argv,
        "folder": os.getcwd(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "arguments": asdict(plan.arguments),
        "symmetry": plan.symmetry,
        "n_particles": n_particles,
        "half_sets": half_sets,
        "n_epochs_simulation": n_epochs_simulation,
        "sampling_rate_angs": plan.sampling_rate_angs,
        "image_size_px": plan.image_size_px,
    }
    write_text(run_dir / "run.json", json.dumps(description, indent=2) + "\n")


def _summary(run_dir: Path, results: list[StageResult]) -> str:
    rows = [
        f"  {result.name:<13} best epoch {result.best['epoch']:>3} of {len(result.epochs)}  "
        f"val_loss {result.best['val_loss']:.3f}  error mean {result.best['val_geo_degs']:.2f}° "
        f"median {result.best['val_median_geo_degs']:.2f}°  under 5°: {result.best['val_share_under_5_degs']:.0%}"
        for result in results
    ]
    return "\n".join(["Finished. On held-out particles:", *rows, f"Models are in {run_dir}; open report.html there to see more"])
