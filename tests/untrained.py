"""Runs whose models were never trained: what they answer means nothing, but is the same each time."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from settings import SMALL

from cryopares_core.commands.infer import main
from cryopares_core.config.merge import load_config
from cryopares_core.model.storage import ModelCard, save_model
from cryopares_core.plots.records import VALIDATION_COLUMNS
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

SIZE, SAMPLING = 32, 10.0
N = 60
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
FOM = "rlnParticleFigureOfMerit"


def untrained_run(folder: Path, names=("half1", "half2"), symmetry="C1", config=(), with_map=True) -> Path:
    """A folder version_0 with models for pictures of 32 px at 10 Å, and the phantom as their training map."""
    settings = load_config(None, [*SMALL, "train.precision=32", *config])
    for number, name in enumerate(names):
        half = folder / "version_0" / name
        half.mkdir(parents=True)
        torch.manual_seed(number)
        channels = 2 if settings.datamanager.particlesDataset.ctf_correction == "concat_phase_flip" else 1
        card = ModelCard(symmetry, SAMPLING, SIZE, channels, asdict(settings), name, {"n_train": 90, "n_val": 10, "epochs": 1})
        network = card.network()
        with torch.no_grad():
            network.so3conv.theta.mul_(20.0)  # as peaked as a trained network's densities
        save_model(half, card, network)
        if with_map:
            write_map(half / "starting_map.mrc", phantom_map(SIZE, SAMPLING), SAMPLING)
    return folder / "version_0"


def add_validation(run: Path, n: int = 200) -> None:
    """Particles held out, of which those with more confidence are more often right."""
    for number, half in enumerate(sorted(run.glob("half*"))):
        draws = np.random.default_rng(number)
        stated = draws.uniform(0.01, 0.2, n)
        error = np.where(draws.random(n) < 4 * stated, 2.0, 40.0)
        angles = draws.uniform(0, 180, (n, 6))
        rows = [",".join(f"{x:.3f}" for x in (*angles[i], error[i], stated[i], 15_000)) + ",a.mrcs" for i in range(n)]
        (half / "validation.csv").write_text("\n".join([",".join((*VALIDATION_COLUMNS, "image")), *rows, ""]))


def summary(results_dir: Path) -> dict:
    """`infer.json`."""
    return json.loads((results_dir / "infer.json").read_text())


def some_particles(folder: Path) -> Path:
    """60 particles of 32 px in three stacks."""
    settings = SimulationSettings(n_particles=N, snr=5.0, seed=3, stack_size=20)
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, folder, settings)
    return folder


def given(make):
    """A fixture that makes something in a folder of its own, once for a file of tests."""
    return pytest.fixture(scope="module")(lambda tmp_path_factory: make(tmp_path_factory.mktemp("given")))


def words(particles: Path, run: Path, out: Path, *more) -> list[str]:
    """Those of a command on one thread; `particles` is a STAR file or the folder of one."""
    star = particles / "particles.star" if particles.is_dir() else particles
    fixed = ["--particles_star_fname", str(star), "--checkpoint_dir", str(run), "--results_dir", str(out), "--evidence", "network"]
    return [*fixed, "--n_threads", "1", "--accelerator", "cpu", "--batch_size", "16", *map(str, more)]


def infer(particles: Path, run: Path, out: Path, *more):
    """The rows of particles.star, after a run that went well."""
    assert main(words(particles, run, out, *more)) == 0
    return starfile.read(out / "particles.star")["particles"]
