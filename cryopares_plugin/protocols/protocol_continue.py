"""`CryoPARES - continue training`."""

import os
import shutil
from dataclasses import replace
from typing import Any, List

from pyworkflow.protocol import params

from cryopares_core.config.parameters import parameters
from cryopares_core.config.schema import Config
from cryopares_core.plots.records import read_run
from cryopares_plugin.form import add_parameter
from cryopares_plugin.protocols.protocol_base import ProtCryoparesBase

# Written anew by the core, never changed in place: a second name for the same file is as good as a copy.
LINKED = (".ckpt", ".safetensors")
LEARNING_RATE = "train.learning_rate"


class ProtCryoparesContinue(ProtCryoparesBase):
    """Goes on with an earlier training, for more epochs or at another learning rate, on the same particles and with the same
    settings otherwise. The earlier run and its model stay as they are.
    """

    _label = "continue training"

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        form.addParam(
            "inputModel",
            params.PointerParam,
            pointerClass="CryoparesModel",
            label="Model to train further",
            important=True,
            help="The model of an earlier training in this project.",
        )
        self._addArgument(form, "n_epochs", 30)
        form.getParam("n_epochs").label.set("Epochs in all")
        self._addLearningRate(form)
        self._addScratch(form)
        self._addHardware(form)

    def _addLearningRate(self, form: Any) -> None:
        leaf = parameters(Config)[LEARNING_RATE]
        help = "Learning rate from here on; empty: as it was in the earlier run. A lower one mends a loss that jumps or grows."
        add_parameter(form, "learning_rate", replace(leaf, default=None, optional=True, rules=replace(leaf.rules, help=help)))

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.copyStep, needsGPU=False)
        self._insertFunctionStep(self.trainStep)

    def copyStep(self) -> None:
        """The earlier run's folder, large files by a second name where the disk allows."""
        target = self.getRunDir()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.inputModel.get().getPath(), target, copy_function=_link_or_copy)

    def trainStep(self) -> None:
        """The epochs that are missing."""
        self._runTraining([], [])

    def _settingsOfContinuing(self) -> List[str]:
        rate = self.learning_rate.get()
        return [] if rate is None else [f"{LEARNING_RATE}={rate}"]

    def _changesOfRun(self) -> List[str]:
        """What may be changed here is what this protocol is for."""
        return []

    def _problems(self) -> List[str]:
        model = self.inputModel.get()
        if model is None:
            return []
        folder = model.getPath()
        missing = [
            name for name in model.getHalfSets() if not os.path.isfile(os.path.join(folder, name, "checkpoints", "last.ckpt"))
        ]
        if missing:
            return [f"{folder}/{missing[0]} has no checkpoint, so its training cannot go on. Fine-tune the model instead."]
        record = read_run(folder)
        stars = record.arguments.get("particles_star_fname") or []
        if any(not os.path.isfile(star) for star in stars):
            return [
                f"The particles that it was trained on ({', '.join(stars)}) are not in this project. Fine-tune the model instead."
            ]
        done = max(len(half.epochs) for half in record.halves.values())
        if self.n_epochs.get() <= done:
            return [f"The model was trained for {done} epochs already: give more than that in all."]
        return []


def _link_or_copy(source: str, target: str) -> str:
    if source.endswith(LINKED):
        try:
            os.link(source, target)
            return target
        except OSError:  # another disk, or one without links
            pass
    return shutil.copy2(source, target)
