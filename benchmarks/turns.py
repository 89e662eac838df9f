"""How well a trained network obeys quarter turns of the picture, and the error with and without their average.

    python benchmarks/turns.py --model_dir RUN/version_0/allParticles --particles_dir SET

Looks at the particles that the run held out (splits/val.star).
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.inference.predict import predict_poses
from cryopares_core.model.storage import load_model
from cryopares_core.model.turns import quarter_turned
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask
from cryopares_core.particles.star import read_particles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--particles_dir", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(arguments.model_dir)
    network, card = load_model(folder)
    table, _ = read_particles(folder / "splits" / "val.star", [arguments.particles_dir], split_halfs=False)
    truth = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    group = point_group(card.symmetry).matrices
    wanted = card.config["datamanager"]["particlesDataset"]
    settings = PreprocessSettings(card.sampling_rate_angs, card.image_size_px, wanted["ctf_correction"], wanted["mask_radius_angs"])
    mask = network_mask(card.image_size_px, card.sampling_rate_angs, wanted["mask_radius_angs"])
    images = prepare_particles(table, settings)[:200].float() * mask
    with torch.inference_mode():
        plain, turned = network(images), network(quarter_turned(images, 1))
        back = network.density.wigner.turned(turned.T, torch.full((len(images),), -torch.pi / 2)).T
        deviation = ((plain - back).norm(dim=0) / plain.norm(dim=0)).mean()
    print(f"{len(table)} particles; the coefficients of a turned picture, turned back, differ by {deviation:.0%} of their norm")
    for name, averaged in (("one look", False), ("four turns", True)):
        started = time.process_time()
        errors = pose_error_degs(
            predict_poses(network, card, table, torch.device("cpu"), quarter_turns=averaged).double(), truth, group
        )
        spent = (time.process_time() - started) / len(table) * 1e3
        print(f"{name}: error mean {errors.mean():.2f}°, median {errors.median():.2f}°, {spent:.1f} ms a picture")


if __name__ == "__main__":
    main()
