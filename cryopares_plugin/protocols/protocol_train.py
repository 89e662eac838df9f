"""`CryoPARES - train`."""

from typing import Any, List

from pyworkflow.protocol import params
from pyworkflow.protocol.constants import LEVEL_ADVANCED

from cryopares_plugin.form import add_fields, overrides
from cryopares_plugin.protocols.protocol_particles import ProtCryoparesParticles
from cryopares_plugin.volumes import write_map


class ProtCryoparesTrain(ProtCryoparesParticles):
    """Trains a network on particles whose poses are known from a 3D refinement. With the trained model the poses of new
    particles of the same complex, from other grids or with other ligands, take minutes.

    More than 100,000 particles are recommended. One model is trained for each half set, so that half maps made with
    them stay independent.
    """

    _label = "train"

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        self._addInputParticles(form)
        self._addArgument(form, "symmetry", "C1")
        self._addTrainingParams(form)
        self._addArgument(form, "recipe")
        group = form.addGroup("First train on simulated views", expertLevel=LEVEL_ADVANCED)
        self._addPretraining(group)
        self._addSettings(form)
        self._addHardware(form)

    def _addPretraining(self, group: Any) -> None:
        group.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            allowsNull=True,
            expertLevel=LEVEL_ADVANCED,
            label="Map to simulate from",
            help="Optional. The network first learns from simulated views of this map, of less and less signal, then from "
            "the particles. It helps where particles are few. Without a map, but with a number of epochs below, each half set "
            "makes a map of its own particles.",
        )
        add_fields(group, self._simulationFields())

    # ---- steps

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.convertStep, needsGPU=False)
        self._insertFunctionStep(self.trainStep)

    def convertStep(self) -> None:
        """The set of particles as a STAR file, and the map where there is one."""
        self._convertParticles()
        if self._map():
            write_map(self._map(), self._mapFile())

    def trainStep(self) -> None:
        self._runTraining(self._trainingArguments(), self._settings())

    def _trainingArguments(self) -> List[str]:
        return self._particleArguments() + self._argument("symmetry") + self._argument("recipe") + self._mapArguments()

    def _mapArguments(self) -> List[str]:
        return ["--map_fname_for_simulated_pretraining", self._mapFile()] if self._map() else []

    def _settings(self) -> List[str]:
        return [*overrides(self, self._simulationFields()), *super()._settings()]

    def _mapFile(self) -> str:
        return self._getExtraPath("input_map.mrc")

    def _map(self) -> Any:
        return self.inputVolume.get()

    def _problems(self) -> List[str]:
        return super()._problems() + self._symmetryProblems()
