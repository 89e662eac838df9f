"""The trained models of a run, or of a file that came from elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from cryopares_core.config.infer_arguments import MODELS
from cryopares_core.errors import UserError
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.storage import ModelCard, load_model, read_card
from cryopares_core.training.calibrate import read_calibration
from cryopares_core.training.calibration import Calibration


@dataclass(frozen=True)
class TrainedModel:
    """A network with what is known of it. `folder` also holds the map of its training particles, where they made one."""

    folder: Path
    network: PoseNetwork
    card: ModelCard
    calibration: Calibration | None


def model_folders(checkpoint_dir: Path) -> dict[str, Path]:
    """The folders of trained models by name.

    Raises
    ------
    UserError : there is none
    """
    if (checkpoint_dir / "model.safetensors").is_file():
        return {read_card(checkpoint_dir).half_set: checkpoint_dir}
    found = {name: checkpoint_dir / name for name in MODELS if (checkpoint_dir / name / "model.safetensors").is_file()}
    if not found:
        raise UserError(
            f"--checkpoint_dir={checkpoint_dir}: no trained model is there. Give the version_N folder of a run of cryopares_train "
            "whose first epoch has ended, or a .cryopares file."
        )
    return found


def load_models(folders: dict[str, Path], names: set[str]) -> dict[str, TrainedModel]:
    """The models of some names, which must prepare their pictures in the same way.

    Raises
    ------
    UserError : a model is damaged or of a newer format, or models differ
    """
    models = {name: _load(folders[name]) for name in sorted(names)}
    if not models:
        return {}
    first, *others = models.values()
    for other in others:
        if _kind(other.card) != _kind(first.card):
            raise UserError(
                f"{other.folder} and {first.folder} are models of different settings, which cannot work together. "
                "Give the folder of one run, or --policy one_model."
            )
    return models


def _load(folder: Path) -> TrainedModel:
    network, card = load_model(folder)
    return TrainedModel(folder, network, card, read_calibration(folder, card.symmetry))


def _kind(card: ModelCard) -> tuple[object, ...]:
    return card.symmetry, asdict(card.preparation), card.config["models"]
