"""What results depend on, as far as disks tell: size and time of change of files, and checksums of models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryopares_core.config.infer_arguments import MODELS, InferArguments
from cryopares_core.files import stamp, stamps
from cryopares_core.training.calibration import FILE as CALIBRATION
from cryopares_core.volumes.picture_fit import FINE_MAP, MAP

# What may be another for the same results: where and how fast they are computed.
OF_THE_MACHINE = ("batch_size", "n_threads", "devices", "accelerator", "shard_size")
OF_A_MODEL = ("model.safetensors", "model.json", CALIBRATION, "validation.csv", MAP, FINE_MAP)


def asked(arguments: InferArguments) -> dict[str, Any]:
    """What of the arguments of an inference makes results these, with stamps of the files that they name."""
    values = {name: value for name, value in asdict(arguments).items() if name not in OF_THE_MACHINE}
    maps = [name for name in (arguments.reference_fname, arguments.reference_half2_fname) if name]
    return {**values, "star_file": stamp(arguments.particles_star_fname), "files": stamps([*_model_files(arguments), *maps])}


def _model_files(arguments: InferArguments) -> list[str]:
    """All that the answers of a run's models, or those of a .cryopares file, rest on."""
    if arguments.checkpoint_dir is None:
        return []
    given = Path(arguments.checkpoint_dir)
    if given.is_file():
        return [str(given)]
    return [str(folder / name) for folder in (given, *(given / model for model in MODELS)) for name in OF_A_MODEL]
