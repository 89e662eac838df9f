"""All looks at a training before it starts, one after the other, as far as the input allows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from cryopares_core.config.schema import Config
from cryopares_core.geometry.symmetry import PointGroup, point_group
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.training.batch_size import with_batch_size
from cryopares_core.training.checks import run_problems
from cryopares_core.training.distribution import processes
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight.findings import COST, ERROR, PARTICLES, PICTURES, POSES, SETTINGS, Findings
from cryopares_core.training.preflight.labels import look_at_labels, tell_of_labels
from cryopares_core.training.preflight.memory import look_at_memory
from cryopares_core.training.preflight.particles import table_doubts, view_doubts
from cryopares_core.training.preflight.poses import CLEAR, PoseLook, fit_of_given_map, look_at_poses
from cryopares_core.training.preflight.sample import Sample, draw_sample
from cryopares_core.training.preflight.settings import earlier_run, finetune_doubts, told_of_folder
from cryopares_core.training.preflight.times import half_sizes, look_at_times, look_at_times_of_views, n_gpus
from cryopares_core.training.preflight.verdicts import tell_of_given_map, tell_of_pictures, tell_of_poses
from cryopares_core.training.pretraining import DEFAULT_VIEWS, SIMULATED, SimulatedMap
from cryopares_core.training.run import choose_device, split_table
from cryopares_core.training.settings import settings_for_map, settings_for_particles

logger = logging.getLogger(__name__)


def check_training(arguments: Any, config: Config, config_problems: list[str], continued_dir: Path | None = None) -> Findings:
    """Look at what a training would be made of; nothing is written.

    Parameters
    ----------
    arguments : a `TrainArguments`
    config_problems : what is wrong with the configuration tree; `config` then is not the user's
    continued_dir : the folder of an earlier run that is to go on
    """
    check = _Check(arguments, config, config_problems)
    check.settings()
    check.particles()
    if check.can_go_on and check.group is not None and check.device is not None:
        with processes(check.device, 1) as fabric:
            check.rehearse(fabric, check.group.name, continued_dir)
    else:
        logger.info("Pictures, poses, memory and time were not looked at: mend the errors first")
    return check.found


class _Check:
    """What was asked for, and what was found so far."""

    def __init__(self, arguments: Any, config: Config, config_problems: list[str]):
        self.arguments, self.config, self.config_problems = arguments, config, config_problems
        self.found = Findings()
        self.group: PointGroup | None = None
        self.device: torch.device | None = None
        self.given: SimulatedMap | None = None
        self.table: ParticleTable | None = None

    @property
    def half_names(self) -> list[str]:
        """The models that would be trained."""
        if self.table is None:
            return [SIMULATED]
        return ["half1", "half2"] if self.arguments.split_halfs else ["allParticles"]

    @property
    def can_go_on(self) -> bool:
        """Whether pictures can be prepared as training would."""
        there = self.given if not self.arguments.particles_star_fname else self.table
        return not self.config_problems and there is not None

    @property
    def settings_are_sound(self) -> bool:
        """No error was found in them so far."""
        return not any(line.subject == SETTINGS and line.level == ERROR for line in self.found.lines)

    def settings(self) -> None:
        """Whatever is wrong before a particle is read."""
        found, arguments = self.found, self.arguments
        found.refuse(SETTINGS, [*self.config_problems, *self.config.batch_problems(arguments.batch_size)])
        self.group = found.attempt(SETTINGS, lambda: point_group(arguments.symmetry))
        found.refuse(SETTINGS, run_problems(arguments, self.config))
        self.device = found.attempt(SETTINGS, lambda: choose_device(arguments.accelerator, arguments.n_threads))
        path = arguments.map_fname_for_simulated_pretraining
        if path and Path(path).is_file():
            self.given = found.attempt(SETTINGS, lambda: SimulatedMap.read(path))
        if not path and not arguments.particles_star_fname:
            found.refuse(SETTINGS, ["Give --particles_star_fname, or --map_fname_for_simulated_pretraining."])

    def particles(self) -> None:
        """The table, and what it tells by itself."""
        if not self.arguments.particles_star_fname:
            return
        self.table = table = self.found.attempt(PARTICLES, self._read)
        if table is None:
            return
        sizes = [f"{int((table.half_set == half).sum()):,}" for half in (1, 2)]
        halves = f"; half sets of {sizes[0]} and {sizes[1]}" if self.arguments.split_halfs else ""
        pictures = f"{table.image_size_px.min()} px at {table.pixel_size_angs.min():.4g} Å/px"
        self.found.ok(PARTICLES, f"{len(table):,} particles in {len(table.stack_paths):,} stacks, {pictures}{halves}.")
        self.found.warn(PARTICLES, table_doubts(table, self.arguments.split_halfs))
        if self.group is not None:
            self.found.warn(PARTICLES, view_doubts(table.eulers_deg, self.group.matrices))

    def _read(self) -> ParticleTable:
        logger.info("Reading particles and the headers of their stacks")
        arguments = self.arguments
        # With a wrong configuration it is not known whether CTFs are needed.
        needs_ctf = not self.config_problems and self.config.datamanager.particlesDataset.ctf_correction != "none"
        table, remarks = read_particles(
            arguments.particles_star_fname, arguments.particles_dir, needs_ctf=needs_ctf, split_halfs=arguments.split_halfs
        )
        self.found.warn(PARTICLES, remarks)
        return table

    def rehearse(self, fabric: Fabric, symmetry: str, continued_dir: Path | None) -> None:
        """Prepare some pictures, look at them and their poses, and make some steps of training."""
        earlier = earlier_run(self.arguments, self.config, continued_dir)
        plan = self.found.attempt(SETTINGS, lambda: self._plan(fabric, symmetry, earlier))
        if plan is None:
            return
        if self.arguments.finetune_checkpoint_dir and self.settings_are_sound:
            self.found.warn(SETTINGS, self.found.attempt(SETTINGS, lambda: finetune_doubts(plan, self.half_names)) or [])
        if self.settings_are_sound:
            self.found.ok(
                SETTINGS,
                f"The settings are valid. {told_of_folder(self.arguments, earlier, self.half_names, continued_dir is not None)}",
            )
        sample, look = self._look(plan)
        look_at_memory(self.found, plan, self.table, n_gpus(plan))
        self.found.attempt(COST, lambda: self._times(plan, sample, look, earlier))

    def _plan(self, fabric: Fabric, symmetry: str, earlier: Path | None) -> Plan:
        if self.table is not None:
            preprocessing = settings_for_particles(self.config, self.table)
            n_particles = len(self.table) // len(self.half_names)
        else:
            preprocessing = settings_for_map(self.config, len(self.given.volume), self.given.pixel_size_angs)  # type: ignore[union-attr]
            n_particles = DEFAULT_VIEWS
        plan = Plan(self.arguments, self.config, symmetry, preprocessing, fabric.device, Phases(), fabric)
        return with_batch_size(plan, earlier, n_particles)

    def _times(self, plan: Plan, sample: Sample | None, look: PoseLook | None, earlier: Path | None) -> None:
        if self.table is None and self.given is not None:
            look_at_times_of_views(self.found, plan, self.given)
        elif self.table is not None and sample is not None:
            halves = half_sizes(split_table(self.table, plan), self.half_names, earlier)
            look_at_times(self.found, plan, sample, look, halves, self.given)

    def _look(self, plan: Plan) -> tuple[Sample | None, PoseLook | None]:
        """At pictures and poses, where there are particles."""
        found, table, given = self.found, self.table, self.given
        sample = None if table is None else found.attempt(PICTURES, lambda: draw_sample(table, plan))
        if sample is None or table is None:
            return None, None
        look = found.attempt(POSES, lambda: look_at_poses(sample, plan))
        tell_of_pictures(found, sample, look, len(table))
        tell_of_poses(found, look)
        quality = found.attempt(POSES, lambda: look_at_labels(sample, plan, look))
        tell_of_labels(found, quality, plan, self.half_names[0])
        if given is not None and look is not None and look.fit.z > CLEAR:
            own = look.fit
            path = str(self.arguments.map_fname_for_simulated_pretraining)
            tell_of_given_map(found, found.attempt(POSES, lambda: fit_of_given_map(sample, plan, given)), own, path)
        return sample, look
