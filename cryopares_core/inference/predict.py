"""Poses of particles by a trained network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.storage import ModelCard
from cryopares_core.model.turns import average_over_quarter_turns
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask
from cryopares_core.particles.table import ParticleTable


def predict_poses(
    network: PoseNetwork,
    card: ModelCard,
    table: ParticleTable,
    device: torch.device,
    batch_size: int = 64,
    quarter_turns: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The most probable pose of each particle, `(n, 3, 3)` float32 on the CPU, in the order of the table.

    The pictures are prepared as they were for training, from the model's card: the poses in the table are not used, but its shifts
    centre the particles. `quarter_turns` averages over the four turns of each picture, at four times the cost.
    """
    wanted = card.config["datamanager"]["particlesDataset"]
    settings = PreprocessSettings(
        sampling_rate_angs=card.sampling_rate_angs,
        image_size_px=card.image_size_px,
        ctf_mode=wanted["ctf_correction"],
        mask_radius_angs=wanted["mask_radius_angs"],
    )
    images = prepare_particles(table, settings, device)
    mask = network_mask(card.image_size_px, card.sampling_rate_angs, wanted["mask_radius_angs"]).to(device)
    network = network.to(device).eval()
    predict = partial(average_over_quarter_turns, network, network.density.wigner) if quarter_turns else network
    poses = []
    with torch.inference_mode():
        for batch in images.split(batch_size):
            coefficients = predict(batch.to(device).float() * mask)
            poses.append(network.density.poses(coefficients, network.density.grid_values(coefficients)).cpu())
            if progress:
                progress(sum(map(len, poses)), len(images))
    return torch.cat(poses)
