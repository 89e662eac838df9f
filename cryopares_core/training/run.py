"""A whole training run: check, read, prepare, then one model for each half set."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cryopares_core
from cryopares_core.config.merge import to_yaml
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.files import write_text
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.batches import split_particles
from cryopares_core.particles.prepare import complete_settings, prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.report import write_report
from cryopares_core.progress import Countdown
from cryopares_core.training.account import kept_warnings, reported
from cryopares_core.training.gallery import save_gallery
from cryopares_core.training.half_set import HalfSet, HalfSetResult, Plan, train_half_set
from cryopares_core.training.phases import Phases

logger = logging.getLogger(__name__)
SMALLEST_PICTURE_PX = 16
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
    with kept_warnings() as warnings:
        plan, parts = _prepare(arguments, config, phases)
        run_dir = continued_dir or _new_version_dir(Path(arguments.train_save_dir))
        halves = [HalfSet(number, run_dir / (f"half{number}" if number else "allParticles"), *ids) for number, ids in parts.items()]
        warnings.write_to(run_dir)
        _write_description(run_dir, plan, halves)
        with phases("pictures"):
            save_gallery(run_dir, plan, halves[0].train_ids)
        with reported(run_dir):
            results = [_train(run_dir, plan, half, resume=continued_dir is not None) for half in halves]
    logger.info("%s", _summary(run_dir, results))
    logger.info("%s", phases.table())
    return run_dir


def _prepare(arguments: Any, config: Config, phases: Phases) -> tuple[Plan, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Check everything, read and prepare the particles; with them, training and validation particles by half set."""
    group = point_group(arguments.symmetry)
    problems = config.batch_problems(arguments.batch_size) + _folder_problems(arguments.train_save_dir)
    problems += _finetune_problems(arguments) + _simulation_problems(arguments, config)
    if problems:
        raise UserError(problems)
    device = choose_device(arguments.accelerator, arguments.n_threads)
    with phases("reading"):
        table = _read(arguments, config)
        preprocessing = preprocess_settings(config, table)
        parts = _split(table, arguments, config)
    with phases("preparing"):
        images = prepare_particles(table, preprocessing, device, progress=Countdown("Prepared", "pictures"))
    return Plan(arguments, config, group.name, preprocessing, table, images, device, phases), parts


def _train(run_dir: Path, plan: Plan, half: HalfSet, resume: bool) -> HalfSetResult:
    """Train one half set and bring the run's report up to date."""
    logger.info("%s: %s particles to train on, %s to validate", half.name, f"{len(half.train_ids):,}", f"{len(half.val_ids):,}")
    result = train_half_set(plan, half, resume)
    with plan.phases("pictures"):
        write_report(run_dir)
    return result


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


def preprocess_settings(config: Config, table: ParticleTable) -> PreprocessSettings:
    """Settings of the preparation, with what the user left open taken from the particles."""
    wanted = config.datamanager.particlesDataset
    asked = PreprocessSettings(
        sampling_rate_angs=wanted.sampling_rate_angs_for_nnet,
        image_size_px=wanted.image_size_px_for_nnet,
        ctf_mode=wanted.ctf_correction,
        mask_radius_angs=wanted.mask_radius_angs,
    )
    settings = complete_settings(table, asked)
    sampling, size, radius = settings.sampling_rate_angs or 0, settings.image_size_px or 0, settings.mask_radius_angs
    if size < SMALLEST_PICTURE_PX:
        raise UserError(
            f"The network's pictures would have {size} px, fewer than {SMALLEST_PICTURE_PX}: lower "
            "datamanager.particlesDataset.sampling_rate_angs_for_nnet, or raise image_size_px_for_nnet."
        )
    if radius is not None and radius > size * sampling / 2:
        logger.warning(
            "The mask's radius of %g Å reaches beyond the picture of %d px at %.4g Å/px (half of it is %.4g Å): nothing is masked "
            "at its sides. Lower mask_radius_angs, or raise image_size_px_for_nnet.",
            *(radius, size, sampling, size * sampling / 2),
        )
    return settings


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


def _folder_problems(save_dir: str) -> list[str]:
    """Whether the results can be written, without writing anything yet."""
    existing = next(folder for folder in (Path(save_dir).absolute(), *Path(save_dir).absolute().parents) if folder.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    return [f"--train_save_dir={save_dir}: {existing} is not a folder that you may write to. Give another folder."]


def _finetune_problems(arguments: Any) -> list[str]:
    source = arguments.finetune_checkpoint_dir
    names = ("half1", "half2") if arguments.split_halfs else ("allParticles",)
    missing = [name for name in names if source and not (Path(source) / name / "model.safetensors").is_file()]
    return [
        f"--finetune_checkpoint_dir={source}: there is no {name}/model.safetensors in it. Give the version_N folder of a finished "
        "run, and the same --split_halfs as that run had."
        for name in missing
    ]


def _simulation_problems(arguments: Any, config: Config) -> list[str]:
    if not arguments.map_fname_for_simulated_pretraining and not config.train.n_epochs_simulation:
        return []
    return [
        "Simulated pretraining (--map_fname_for_simulated_pretraining, train.n_epochs_simulation) is not in this version. "
        "Instead: cryopares_simulate makes particles from the map; train on them, then use --finetune_checkpoint_dir."
    ]


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


def _write_description(run_dir: Path, plan: Plan, halves: list[HalfSet]) -> None:
    """`config.yml` and `run.json`: what was asked, of which version, on what."""
    write_text(run_dir / "config.yml", to_yaml(plan.config))
    description = {
        "cryopares": cryopares_core.__version__,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "command": sys.argv,
        "folder": os.getcwd(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "arguments": asdict(plan.arguments),
        "half_sets": [half.name for half in halves],
        "n_epochs_simulation": plan.config.train.n_epochs_simulation,
        "symmetry": plan.symmetry,
        "n_particles": len(plan.table),
        "sampling_rate_angs": plan.sampling_rate_angs,
        "image_size_px": plan.preprocessing.image_size_px,
    }
    write_text(run_dir / "run.json", json.dumps(description, indent=2) + "\n")


def _summary(run_dir: Path, results: list[HalfSetResult]) -> str:
    rows = [
        f"  {result.name:<13} best epoch {result.best['epoch']:>3} of {len(result.epochs)}  "
        f"val_loss {result.best['val_loss']:.3f}  error mean {result.best['val_geo_degs']:.2f}° "
        f"median {result.best['val_median_geo_degs']:.2f}°  under 5°: {result.best['val_share_under_5_degs']:.0%}"
        for result in results
    ]
    return "\n".join(["Finished. On held-out particles:", *rows, f"Models are in {run_dir}; open report.html there to see more"])
