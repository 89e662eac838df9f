"""What the protocols share that train on a set of particles."""

import os
from typing import Any, List

from pyworkflow.protocol import params
from pyworkflow.protocol.constants import LEVEL_ADVANCED

from cryopares_plugin.convert import particle_problems, particle_warnings
from cryopares_plugin.core_run import write_star
from cryopares_plugin.protocols.protocol_base import ProtCryoparesBase

OPTIONS = ("n_epochs", "batch_size", "split_halfs", "compile_model", "overfit_batches", "val_check_interval")


class ProtCryoparesParticles(ProtCryoparesBase):
    """Writes the input particles as a STAR file, checks them, and hands them to the core."""

    def _addInputParticles(self, form: Any) -> None:
        form.addParam(
            "inputParticles",
            params.PointerParam,
            pointerClass="SetOfParticles",
            pointerCondition="hasAlignmentProj",
            label="Aligned particles",
            important=True,
            help="Particles with CTF and with the poses of a 3D refinement (projection alignment). The set itself is used, "
            "no pictures are copied.",
        )

    def _addTrainingParams(self, form: Any, n_epochs: int = 100) -> None:
        """How long, and in what portions."""
        self._addArgument(form, "n_epochs", n_epochs)
        self._addArgument(form, "batch_size")
        self._addArgument(form, "split_halfs")
        for name in OPTIONS[3:]:
            self._addArgument(form, name, level=LEVEL_ADVANCED)

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.convertStep, needsGPU=False)
        self._insertFunctionStep(self.trainStep)

    def convertStep(self) -> None:
        """The input as files that the core reads."""
        self._convertParticles()

    def trainStep(self) -> None:
        """One model for each half set, or one for all particles."""
        self._runTraining(self._trainingArguments(), self._settings())

    def _convertParticles(self) -> None:
        write_star(self, self.inputParticles.get(), self._starFile(), half_sets=self.split_halfs.get())

    def _starFile(self) -> str:
        return self._getExtraPath("input_particles.star")

    def _particleArguments(self) -> List[str]:
        words = ["--particles_star_fname", self._starFile(), "--particles_dir", os.curdir]
        for name in OPTIONS:
            words += self._argument(name)
        return words

    def _trainingArguments(self) -> List[str]:
        raise NotImplementedError

    def _problems(self) -> List[str]:
        particles = self.inputParticles.get()
        found = (
            [] if particles is None else particle_problems(particles, needs_ctf=self._needsCtf(), half_sets=self.split_halfs.get())
        )
        return found + self._settingsProblems()

    def _needsCtf(self) -> bool:
        return not any(word.lower().endswith("ctf_correction=none") for word in self._settings())

    def _warnings(self) -> List[str]:
        particles = self.inputParticles.get()
        return [] if particles is None else particle_warnings(particles, half_sets=self.split_halfs.get())

    def _methodsInput(self) -> str:
        particles = self.inputParticles.get()
        return f"{particles.getSize():,} particles of known pose" if particles is not None else super()._methodsInput()
