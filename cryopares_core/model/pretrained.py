"""Weights of residual networks from elsewhere, named as torchvision names them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.model.resnet import ResNetEncoder
from cryopares_core.model.storage import copy_weights

HEAD = "fc."  # the classifier: the encoder has none
STEM = "conv1.weight"


def load_pretrained(encoder: ResNetEncoder, path: str | Path) -> None:
    """Copy the weights of a file into an encoder.

    Pictures in colour have three channels: a grey picture is one of three equal channels, so that the first layer's weights
    are summed over them, and shared out among the channels here.

    Raises
    ------
    UserError : the file cannot be read, or its layers are not those of the encoder
    """
    weights = {name: tensor for name, tensor in _read(Path(path)).items() if not name.startswith(HEAD)}
    if STEM in weights and weights[STEM].ndim == 4:
        channels = encoder.conv1.in_channels
        weights[STEM] = weights[STEM].sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    problems = copy_weights(encoder, weights)
    problems += [f"layer {name} is unknown here" for name in sorted(weights.keys() - encoder.state_dict().keys())]
    if problems:
        listed = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise UserError(f"{path} holds no weights of this network: {listed}. Name the network that the file is of as resnetName.")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Nothing in the file is run."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: check models.image2sphere.imageencoder.resnet.weights_fname.")
    try:
        found: Any
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} cannot be read as weights ({reason}). Give a .pth or .safetensors file of a state dict."
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
