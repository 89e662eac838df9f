"""How long all of a training will take, from what parts of it took on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.training.curriculum import FIRST_SNR, NoiseCurriculum
from cryopares_core.training.half_set import LEAST_AGREEMENT
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight.cost import StageCost, StandIns, stage_cost
from cryopares_core.training.preflight.findings import COST, Findings
from cryopares_core.training.preflight.poses import PoseLook
from cryopares_core.training.preflight.sample import Sample
from cryopares_core.training.preflight.settings import epochs_done
from cryopares_core.training.pretraining import (
    DEFAULT_EPOCHS,
    DEFAULT_VIEWS,
    MOST_HELD_OUT,
    SIMULATED,
    SimulatedMap,
    Simulation,
    make_simulation,
)
from cryopares_core.training.starting_map import MAP_PICTURES, KnownParticles
from cryopares_core.volumes.views import SimulatedViews, usual_ctfs

LONG_DAYS = 7.0
VIEWS_LOOKED_AT = 64


@dataclass(frozen=True)
class HalfSize:
    """A model that is to be trained: particles to train on, held out, and epochs done by an earlier run."""

    name: str
    n_train: int
    n_val: int
    done: int = 0


def half_sizes(parts: dict[int, tuple[np.ndarray, np.ndarray]], names: list[str], earlier: Path | None) -> list[HalfSize]:
    """Of the parts of a table, as for training."""
    pairs = zip(names, parts.values(), strict=True)
    return [HalfSize(name, len(train), len(val), epochs_done(earlier, name)) for name, (train, val) in pairs]


def look_at_times(
    found: Findings, plan: Plan, sample: Sample, look: PoseLook | None, halves: list[HalfSize], given: SimulatedMap | None
) -> None:
    """The time of a training on particles, of `sum(n_train + n_val)` pictures. Raises UserError where a step fails."""
    first, n = halves[0], sum(half.n_train + half.n_val for half in halves)
    simulation = _simulation(plan, sample.known.ctf, look, given)
    curriculum = _curriculum(plan, look) if simulation is None else None
    epoch = stage_cost(plan, StandIns(sample.known, first.n_train), sample.known, first.n_val, curriculum)
    per_particle = epoch.of(1) / first.n_train
    seconds = [max(0, plan.arguments.n_epochs - half.done) * half.n_train * per_particle for half in halves]
    begun = [half for half in halves if not half.done]
    if look is not None:
        seconds += [look.map_seconds * min(MAP_PICTURES, half.n_train) for half in begun]
    if simulation is not None:
        seconds += [_views_cost(plan, simulation, sample.known, half.n_train).of(simulation.n_epochs) for half in begun[:1]] * len(
            begun
        )
    preparing = sample.seconds * n
    found.measured["prepare_seconds"] = round(preparing, 1)
    _tell(found, plan, epoch, preparing + sum(seconds) / n_gpus(plan), [half.name for half in halves], preparing)


def look_at_times_of_views(found: Findings, plan: Plan, given: SimulatedMap) -> None:
    """The time of a training on simulated views of a map alone. Raises UserError where a step fails."""
    simulation = make_simulation(plan, given, usual_ctfs(plan.config.train.seed), plan.arguments.n_epochs)
    batch = simulation.simulator.draw(VIEWS_LOOKED_AT, simulation.last_snr, torch.Generator().manual_seed(0))
    known = KnownParticles(batch.images, batch.eulers_degs, usual_ctfs())
    epoch = _views_cost(plan, simulation, known, DEFAULT_VIEWS)
    _tell(found, plan, epoch, epoch.of(plan.arguments.n_epochs) / n_gpus(plan), [SIMULATED], 0.0)


def n_gpus(plan: Plan) -> int:
    """GPUs that would share the work; 1 where there is none."""
    return (plan.arguments.devices or torch.cuda.device_count()) if plan.device.type == "cuda" else 1


def _views_cost(plan: Plan, simulation: Simulation, known: KnownParticles, n_particles: int) -> StageCost:
    count, seed = simulation.views_an_epoch or n_particles, plan.config.train.seed
    views = SimulatedViews(simulation.simulator, count, simulation.n_epochs, simulation.last_snr, seed)
    return stage_cost(plan, views, known, min(MOST_HELD_OUT, max(1, count // 10)), None)


def _simulation(plan: Plan, ctf: CtfTensors, look: PoseLook | None, given: SimulatedMap | None) -> Simulation | None:
    """The views that come before the particles, of the map given or of that of the half set itself."""
    n_epochs = plan.config.train.n_epochs_simulation
    if given is not None:
        return make_simulation(plan, given, ctf, n_epochs or DEFAULT_EPOCHS)
    if n_epochs and look is not None and look.made.agreement >= LEAST_AGREEMENT:
        return make_simulation(plan, SimulatedMap(look.made.volume.cpu().numpy(), plan.sampling_rate_angs), ctf, n_epochs)
    return None


def _curriculum(plan: Plan, look: PoseLook | None) -> NoiseCurriculum | None:
    """As training would have it."""
    fresh = plan.config.train.noise_curriculum and not plan.arguments.finetune_checkpoint_dir
    if not fresh or look is None or look.made.agreement < LEAST_AGREEMENT or look.made.snr >= FIRST_SNR:
        return None
    return NoiseCurriculum(look.made, point_group(plan.symmetry).matrices)


def _tell(found: Findings, plan: Plan, epoch: StageCost, total: float, names: list[str], preparing: float) -> None:
    found.measured.update(step_seconds=round(epoch.step, 4), epoch_seconds=round(epoch.of(1), 1), total_seconds=round(total))
    found.measured["steps_an_epoch"] = epoch.steps_an_epoch
    where = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else f"threads: {torch.get_num_threads()}"
    text = f"About {duration(total)} in all on this machine ({where}): "
    text += f"{duration(preparing)} to prepare pictures, then " if preparing else ""
    text += f"up to {plan.arguments.n_epochs} epochs of {epoch.steps_an_epoch:,} steps ({epoch.step:.2g} s each) "
    text += f"for {' and '.join(names)}."
    if total > LONG_DAYS * 86400:
        found.warn(COST, [f"{text} Take a GPU, a smaller box or network, fewer epochs or several GPUs."])
    else:
        found.ok(COST, text)


def duration(seconds: float) -> str:
    """A time in words: `40 s`, `12 min`, `3.4 h` or `2.1 days`."""
    for limit, unit, word in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {word}" if seconds / unit < 10 else f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86400:.1f} days"
