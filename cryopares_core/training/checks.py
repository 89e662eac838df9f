"""What can be wrong with a training run before any particle is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.model.pretrained import load_pretrained
from cryopares_core.model.resnet import ResNetEncoder
from cryopares_core.training.half_set import source_folder
from cryopares_core.training.pretraining import SIMULATED


def run_problems(arguments: Any, config: Config) -> list[str]:
    """All that is wrong with the folders and the combination of options, one sentence each."""
    problems = _folder_problems(arguments.train_save_dir) + _finetune_problems(arguments)
    return problems + _map_problems(arguments) + _weights_problems(config)


def _folder_problems(save_dir: str) -> list[str]:
    """Whether the results can be written, without writing anything yet."""
    existing = next(folder for folder in (Path(save_dir).absolute(), *Path(save_dir).absolute().parents) if folder.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    return [f"--train_save_dir={save_dir}: {existing} is not a folder that you may write to. Give another folder."]


def _finetune_problems(arguments: Any) -> list[str]:
    source = arguments.finetune_checkpoint_dir
    if not source:
        return []
    names = ("half1", "half2") if arguments.split_halfs else ("allParticles",)
    missing = [name for name in names if not (source_folder(Path(source), name) / "model.safetensors").is_file()]
    return [
        f"--finetune_checkpoint_dir={source}: there is no {name}/model.safetensors in it, nor {SIMULATED}/model.safetensors. "
        "Give the version_N folder of a finished run, and the same --split_halfs as that run had."
        for name in missing
    ]


def _weights_problems(config: Config) -> list[str]:
    resnet = config.models.image2sphere.imageencoder.resnet
    if not resnet.weights_fname:
        return []
    name = "models.image2sphere.imageencoder.resnet.weights_fname"
    if resnet.resnetName is None:
        return [f"{name}={resnet.weights_fname} needs a residual network: give resnetName too, for example resnet18."]
    try:
        load_pretrained(ResNetEncoder(resnet.resnetName), resnet.weights_fname)
    except UserError as error:
        return error.problems
    return []


def _map_problems(arguments: Any) -> list[str]:
    path, problems = arguments.map_fname_for_simulated_pretraining, []
    if path and not Path(path).is_file():
        problems.append(f"--map_fname_for_simulated_pretraining={path}: there is no such file.")
    return problems
