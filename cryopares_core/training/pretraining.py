"""Training on simulated views of a map: before the real particles, or alone.

At the noise of real particles a fresh network learns nothing for a long time. Views with much signal teach it the particle's shape
within minutes; the signal then falls to that of real particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryopares_core.errors import UserError
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.storage import copy_weights, read_weights
from cryopares_core.particles.batches import PreparedDataset
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.training.checkpoints import Checkpoints
from cryopares_core.training.fit import fit
from cryopares_core.training.plan import Plan, Stage, StageResult
from cryopares_core.training.records import ValidationRecords
from cryopares_core.volumes.maps import HEADER_REMEDY, read_map
from cryopares_core.volumes.views import SimulatedViews, ViewSimulator

SIMULATED = "simulated"  # the folder of a run without particles
DEFAULT_EPOCHS = 3
DEFAULT_VIEWS = 10_000
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 1000


@dataclass(frozen=True)
class SimulatedMap:
    """The map to simulate from, `(n, n, n)` `[z, y, x]`, and its pixel size."""

    volume: np.ndarray
    pixel_size_angs: float

    @classmethod
    def read(cls, path: str) -> SimulatedMap:
        """Raises UserError where the file is no usable map."""
        volume, pixel_size = read_map(path, remedy=HEADER_REMEDY)
        return cls(volume, pixel_size)


@dataclass(frozen=True)
class Simulation:
    """A simulator of views, and for how many epochs a run trains on them. `views_an_epoch` None: as many as there are particles."""

    simulator: ViewSimulator
    n_epochs: int
    views_an_epoch: int | None
    last_snr: float


def make_simulation(plan: Plan, simulated_map: SimulatedMap, ctf: CtfTensors, n_epochs: int) -> Simulation:
    """The simulation that a plan asks for, with the microscope's settings to draw from."""
    train = plan.config.train
    with plan.phases("preparing"):
        simulator = ViewSimulator(simulated_map.volume, simulated_map.pixel_size_angs, plan.preprocessing, ctf, plan.device)
    return Simulation(simulator, n_epochs, train.n_views_per_epoch_simulation, train.simulation_snr)


def pretrain(
    plan: Plan, simulation: Simulation, folder: Path, title: str, n_particles: int, number: int, network: PoseNetwork
) -> StageResult:
    """Train a network on simulated views and leave the best epoch's weights in it. Goes on from the folder's last checkpoint.

    Parameters
    ----------
    folder : where this stage writes
    n_particles : views in an epoch, where the settings don't say
    number : the half set's, so that both see views of their own
    """
    seed = plan.config.train.seed + number
    views_an_epoch = simulation.views_an_epoch or n_particles
    views = SimulatedViews(simulation.simulator, views_an_epoch, simulation.n_epochs, simulation.last_snr, seed)
    state = Checkpoints(folder).load(plan.device)
    result = fit(plan, _stage(plan, simulation, folder, title, views, seed), network, state)
    problems = copy_weights(network, read_weights(folder))
    if problems:
        raise UserError([f"{folder}: {problem}" for problem in problems])
    return result


def _stage(plan: Plan, simulation: Simulation, folder: Path, title: str, views: SimulatedViews, seed: int) -> Stage:
    count = min(MOST_HELD_OUT, max(plan.arguments.batch_size, round(HELD_OUT_SHARE * len(views))))
    # Other views than those of training, the same in every epoch, with as little signal as there will be at the end.
    batch = simulation.simulator.draw(count, simulation.last_snr, torch.Generator().manual_seed(seed + 1_000_000_007))
    held_out = PreparedDataset(batch.images, batch.eulers_degs, np.arange(count))
    names = [f"view {place + 1}" for place in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    records = ValidationRecords(folder, np.zeros((0, 3)), batch.eulers_degs.double().numpy(), names)
    return Stage(folder, title, simulation.n_epochs, views, held_out, records)
