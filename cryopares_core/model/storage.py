"""Trained models on disk: `model.safetensors` holds the weights, `model.json` beside it says what they are for.

Loading never runs code from the file, unlike a pickle.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cryopares_core.config.merge import load_config
from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path, write_text
from cryopares_core.model.network import PoseNetwork
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask

FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to use the weights, and what a person wants to know about them."""

    symmetry: str
    sampling_rate_angs: float
    image_size_px: int
    in_channels: int
    config: dict[str, Any]
    half_set: str
    training: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def network(self) -> PoseNetwork:
        """A network of the right shape, with fresh weights."""
        settings = load_config(None, _flat(self.config)).models.image2sphere
        return PoseNetwork(settings, self.symmetry, self.image_size_px, self.in_channels)

    @property
    def preparation(self) -> PreprocessSettings:
        """How its pictures are prepared."""
        wanted = self.config["datamanager"]["particlesDataset"]
        return PreprocessSettings(self.sampling_rate_angs, self.image_size_px, wanted["ctf_correction"], wanted["mask_radius_angs"])

    def mask(self) -> Tensor:
        """What is laid on its pictures, `(s, s)`."""
        return network_mask(self.image_size_px, self.sampling_rate_angs, self.preparation.mask_radius_angs)


def _flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """A nested configuration as `a.b=c` overrides."""
    items: list[str] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            items += _flat(value, f"{prefix}{name}.")
        else:
            items.append(f"{prefix}{name}={'null' if value is None else value}")
    return items


def save_model(folder: Path, card: ModelCard, network: nn.Module) -> None:
    """Write `model.safetensors` and `model.json`, each all or nothing, the card last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(weights))  # its own writer makes a file that others on a shared disk cannot read
    save_card(folder, card)


def save_card(folder: Path, card: ModelCard) -> None:
    """Write `model.json` alone, all or nothing."""
    write_text(folder / "model.json", json.dumps(asdict(card), indent=2) + "\n")


def load_model(folder: Path) -> tuple[PoseNetwork, ModelCard]:
    """The network, in evaluation mode, and its card.

    Raises
    ------
    UserError : the folder holds no model, or one that is damaged or of a newer format.
    """
    weights = read_weights(folder)
    card = read_card(folder)
    network = card.network()
    problems = copy_weights(network, weights)
    if problems:
        raise UserError([f"{folder / 'model.safetensors'}: {problem}" for problem in problems])
    return network.eval(), card


def read_card(folder: Path) -> ModelCard:
    """The card of a model alone. Raises UserError as `load_model` does."""
    path = folder / "model.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format", 0) > FORMAT:
            raise UserError(f"{path}: format {values['format']} is newer than this version knows ({FORMAT}). Update CryoPARES.")
        card = ModelCard(**values)
        if not (card.sampling_rate_angs > 0 and 8 <= card.image_size_px <= 4096 and card.in_channels == card.preparation.channels):
            raise ValueError("its pictures have no possible size")
        return card
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a CryoPARES model ({error}). Copy the model again, or train it.") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of `model.safetensors` by name."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder}: there is no model.safetensors in it. Give a half1, half2 or allParticles folder of a run.")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({error}). Copy the model again, or train it.") from error


def copy_weights(network: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Copy the tensors that fit into a network; what doesn't is named, one sentence each."""
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    problems = [
        f"layer {name} has the shape {list(own[name].shape)} here and {list(weights[name].shape)} there"
        for name in own.keys() & weights.keys() - fitting.keys()
    ]
    problems += [f"layer {name} is missing there" for name in own.keys() - weights.keys()]
    network.load_state_dict(fitting, strict=False)
    return sorted(problems)
