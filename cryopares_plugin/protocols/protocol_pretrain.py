"""`CryoPARES - simulated pretraining`."""

from typing import Any, List

from pyworkflow.protocol import params

from cryopares_plugin.protocols.protocol_base import ProtCryoparesBase
from cryopares_plugin.volumes import write_map


class ProtCryoparesPretrain(ProtCryoparesBase):
    """Trains a network on simulated views of a map, with less and less signal; no particles are needed. The model is to be
    fine-tuned on real particles, of which fewer are needed then.
    """

    _label = "simulated pretraining"

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        form.addParam(
            "inputVolume",
            params.PointerParam,
            pointerClass="Volume",
            label="Map to simulate from",
            important=True,
            help="A map of the complex, cubic, unmasked or softly masked.",
        )
        self._addArgument(form, "symmetry", "C1")
        self._addArgument(form, "n_epochs", 10)
        self._addArgument(form, "batch_size")
        self._addArgument(form, "recipe")
        self._addSettings(form)
        self._addHardware(form)

    def _fields(self) -> List[Any]:
        """All but the number of simulated epochs, which are all epochs here."""
        return [*super()._fields(), *(field for field in self._simulationFields() if field.name != "n_epochs_simulation")]

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.convertStep, needsGPU=False)
        self._insertFunctionStep(self.trainStep)

    def convertStep(self) -> None:
        """The map as a file that the core reads."""
        write_map(self.inputVolume.get(), self._mapFile())

    def trainStep(self) -> None:
        """One model, on simulated views alone."""
        words = ["--map_fname_for_simulated_pretraining", self._mapFile()]
        for name in ("symmetry", "n_epochs", "batch_size", "recipe"):
            words += self._argument(name)
        self._runTraining(words, self._settings())

    def _mapFile(self) -> str:
        return self._getExtraPath("input_map.mrc")

    def _problems(self) -> List[str]:
        volume = self.inputVolume.get()
        found = [] if volume is None else _volume_problems(volume)
        return found + self._symmetryProblems() + self._settingsProblems()

    def _methodsInput(self) -> str:
        return "simulated views of a map"


def _volume_problems(volume: Any) -> List[str]:
    sides = volume.getDim()
    if sides and len(set(sides)) > 1:
        return [f"The map must be a cube, but it is {' x '.join(map(str, sides))} px: pad or crop it."]
    if not volume.getSamplingRate():
        return ["The map has no pixel size: import it again with one."]
    return []
