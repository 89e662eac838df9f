"""A whole training run: check, read, prepare, then one model for each half set."""

from __future__ import annotations

import datetime
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

import cryopares_core
from cryopares_core.config.merge import to_yaml
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.machine import Place, device_of
from cryopares_core.particles.batches import split_particles
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.store import open_store
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.readers import read_json
from cryopares_core.plots.report import write_report
from cryopares_core.progress import Countdown
from cryopares_core.training.account import KeptWarnings, kept_warnings, reported
from cryopares_core.training.batch_size import with_batch_size
from cryopares_core.training.checks import run_problems
from cryopares_core.training.distribution import processes, processes_here, told_together
from cryopares_core.training.gallery import save_gallery
from cryopares_core.training.half_set import HalfSet, Particles, train_half_set
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan, StageResult
from cryopares_core.training.preflight.particles import view_doubts
from cryopares_core.training.pretraining import (
    DEFAULT_EPOCHS,
    DEFAULT_VIEWS,
    SIMULATED,
    SimulatedMap,
    Simulation,
    make_simulation,
    pretrain,
)
from cryopares_core.training.runs import describe, held, input_files, is_finished, new_folder, remove_leftovers, same_run
from cryopares_core.training.settings import settings_for_map, settings_for_particles
from cryopares_core.volumes.views import usual_ctfs

logger = logging.getLogger(__name__)


def run_training(arguments: Any, config: Config, phases: Phases, continued_dir: Path | None = None) -> Path:
    """Train as asked and return the run's folder `version_N`. A run that was stopped goes on when its command is given again,
    and one that is finished says so. Nothing is written before the input is read and prepared.

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
    with processes(device, arguments.devices) as fabric:
        return _train(arguments, config, group.name, fabric, phases, continued_dir)


def _train(arguments: Any, config: Config, symmetry: str, fabric: Fabric, phases: Phases, continued_dir: Path | None) -> Path:
    settings, inputs = to_yaml(config), input_files(arguments)
    save_dir = Path(arguments.train_save_dir)
    folder = fabric.broadcast(continued_dir or same_run(save_dir, asdict(arguments), settings, inputs))
    if folder and folder != continued_dir:
        if is_finished(folder):
            logger.info("%s holds this very run, and it is finished. Another seed or folder trains it anew", folder)
            return folder
        logger.info("%s holds this very run, unfinished: it goes on", folder)
    with kept_warnings() as warnings:
        run = _Run(arguments, config, symmetry, fabric, phases, warnings, inputs, folder)
        results = run.on_particles() if arguments.particles_star_fname else run.on_views()
    logger.info("%s", _summary(run.folder, results))
    logger.info("%s", phases.table())
    return run.folder


@dataclass
class _Run:
    """What a run was asked for. `earlier` is its folder where it goes on; `folder` is there as soon as something is written."""

    arguments: Any
    config: Config
    symmetry: str
    fabric: Fabric
    phases: Phases
    warnings: KeptWarnings
    inputs: dict[str, Any]
    earlier: Path | None
    folder: Path = Path()

    def on_particles(self) -> list[StageResult]:
        """One model for each half set, or one for all particles."""
        arguments = self.arguments
        with self.phases("reading"), told_together(self.fabric):
            simulated_map = self._map()
            table = _read(arguments, self.config)
            for doubt in view_doubts(table.eulers_deg, point_group(self.symmetry).matrices):
                logger.warning("%s", doubt)
            n_particles = len(table) // 2 if arguments.split_halfs else len(table)
            plan = self._plan(settings_for_particles(self.config, table), n_particles)
            parts = split_table(table, plan)
        with self.phases("preparing"), told_together(self.fabric):
            prepared = open_store(
                table,
                plan.preprocessing,
                plan.device,
                Countdown("Prepared", "pictures"),
                Path(arguments.scratch_dir) if arguments.scratch_dir else None,
                Path(arguments.train_save_dir),
                processes_here(self.fabric),
            )
            particles = Particles(table, prepared)
        simulation = self._simulation(plan, simulated_map, table)
        n_epochs = simulation.n_epochs if simulation else self.config.train.n_epochs_simulation
        with self._begun(plan, len(table), [_half_name(number) for number in parts], n_epochs):
            halves = [HalfSet(number, self.folder / _half_name(number), *ids) for number, ids in parts.items()]
            with self.phases("pictures"):
                if self.fabric.is_global_zero:
                    save_gallery(self.folder, plan, particles, halves[0].train_ids)
            return [self._half_set(plan, particles, half, simulation) for half in halves]

    def _half_set(self, plan: Plan, particles: Particles, half: HalfSet, simulation: Simulation | None) -> StageResult:
        """Train one half set and bring the run's report up to date."""
        logger.info("%s: %s particles to train on, %s to validate", half.name, f"{len(half.train_ids):,}", f"{len(half.val_ids):,}")
        result = train_half_set(plan, particles, half, simulation)
        self._report()
        return result

    def on_views(self) -> list[StageResult]:
        """One model, on simulated views of the map alone."""
        with self.phases("reading"), told_together(self.fabric):
            simulated_map = self._map()
            if simulated_map is None:
                raise UserError("Give --particles_star_fname, or --map_fname_for_simulated_pretraining.")
            settings = settings_for_map(self.config, len(simulated_map.volume), simulated_map.pixel_size_angs)
            plan = self._plan(settings, DEFAULT_VIEWS)
        simulation = make_simulation(plan, simulated_map, usual_ctfs(self.config.train.seed), self.arguments.n_epochs)
        with self._begun(plan, 0, [SIMULATED], 0):
            torch.manual_seed(self.config.train.seed)
            result = pretrain(plan, simulation, self.folder / SIMULATED, SIMULATED, DEFAULT_VIEWS, 0, plan.network())
            self._report()
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

    def _plan(self, preprocessing: PreprocessSettings, n_particles: int) -> Plan:
        plan = Plan(self.arguments, self.config, self.symmetry, preprocessing, self.fabric.device, self.phases, self.fabric)
        return with_batch_size(plan, self.earlier, n_particles)

    @contextmanager
    def _begun(self, plan: Plan, n_particles: int, half_sets: list[str], n_epochs_simulation: int) -> Iterator[None]:
        """The run's folder with its description, for this run alone; the first process writes it, and the report at the end."""
        settings, folder = to_yaml(self.config), self.earlier
        if self.fabric.is_global_zero:
            started = read_json(folder / "run.json").get("started") if folder else None
            description = _description(plan, self.arguments, n_particles, half_sets, n_epochs_simulation, started)
            description["inputs"] = self.inputs
            if folder is None:
                folder = new_folder(Path(self.arguments.train_save_dir), settings, description)
        self.folder = self.fabric.broadcast(folder) or Path()
        with ExitStack() as stack:
            if self.fabric.is_global_zero:
                stack.enter_context(held(self.folder))
                remove_leftovers(self.folder)
                describe(self.folder, settings, description)
                self.warnings.write_to(self.folder)
                stack.enter_context(reported(self.folder, self.phases))
            yield

    def _report(self) -> None:
        with self.phases("pictures"):
            if self.fabric.is_global_zero:
                self.phases.write(self.folder)
                write_report(self.folder)


def _half_name(number: int) -> str:
    return f"half{number}" if number else "allParticles"


def choose_device(accelerator: str, n_threads: int | None) -> torch.device:
    """What this process computes on; says which. See `device_of`."""
    device = device_of(Place(), accelerator, n_threads)
    if device.type == "cuda":
        logger.info("Computing on %s", torch.cuda.get_device_name(0))
    else:
        logger.info("No GPU found or wanted: computing on the CPU with %d threads", torch.get_num_threads())
    return device


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


def split_table(table: ParticleTable, plan: Plan) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Training and validation particles by half set; 0 stands for all in one."""
    half_set = table.half_set if plan.arguments.split_halfs else np.zeros(len(table), dtype=np.int8)
    parts = split_particles(half_set, plan.config.train.val_fraction, plan.config.train.seed)
    needed = plan.particles_per_batch
    smallest = min(len(train_ids) for train_ids, _ in parts.values())
    if smallest < max(2, needed):
        raise UserError(
            f"Only {smallest} particles would be left for training in a half set, fewer than the {needed} of one batch. "
            f"Give more particles, lower --batch_size (now {plan.arguments.batch_size}), or use --split_halfs False."
        )
    return parts


def _description(
    plan: Plan, arguments: Any, n_particles: int, half_sets: list[str], n_epochs_simulation: int, started: str | None
) -> dict[str, Any]:
    """What `run.json` tells: what was asked, of which version, on what. `started`: when, of a run that goes on."""
    return {
        "cryopares": cryopares_core.__version__,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "command": sys.argv,
        "folder": os.getcwd(),
        "started": started or datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "arguments": asdict(arguments),
        "batch_size": plan.arguments.batch_size,
        "processes": plan.fabric.world_size,
        "symmetry": plan.symmetry,
        "n_particles": n_particles,
        "half_sets": half_sets,
        "n_epochs_simulation": n_epochs_simulation,
        "sampling_rate_angs": plan.sampling_rate_angs,
        "image_size_px": plan.image_size_px,
    }


def _summary(run_dir: Path, results: list[StageResult]) -> str:
    rows = [
        f"  {result.name:<13} best epoch {result.best['epoch']:>3} of {len(result.epochs)}  "
        f"val_loss {result.best['val_loss']:.3f}  error mean {result.best['val_geo_degs']:.2f}° "
        f"median {result.best['val_median_geo_degs']:.2f}°  under 5°: {result.best['val_share_under_5_degs']:.0%}"
        for result in results
    ]
    return "\n".join(["Finished. On held-out particles:", *rows, f"Models are in {run_dir}; open report.html there to see more"])
