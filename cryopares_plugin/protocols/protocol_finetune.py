"""`CryoPARES - fine-tune`."""

import os
from typing import Any, List, Optional

from pyworkflow.protocol import params

from cryopares_plugin.protocols.protocol_particles import ProtCryoparesParticles

LEARNING_RATE = 1e-4


class ProtCryoparesFinetune(ProtCryoparesParticles):
    """Adapts a trained network to new particles of known pose: the same complex with another ligand, another microscope, or a
    model that was trained on simulated views. It takes fewer particles and fewer epochs than training afresh.

    The network's shape, pixel size and box are those of the model.
    """

    _label = "fine-tune"

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        form.addParam(
            "inputModel",
            params.PointerParam,
            pointerClass="CryoparesModel",
            label="Trained model",
            important=True,
            help="The model to start from: of CryoPARES train, simulated pretraining, an earlier fine-tuning, or imported.",
        )
        self._addInputParticles(form)
        self._addTrainingParams(form, n_epochs=5)
        self._addSettings(form, tabs=("Optimiser", "Augmentation"), defaults={"learning_rate": LEARNING_RATE})
        self._addHardware(form)

    def _fields(self) -> List[Any]:
        """The network and the preparation of pictures stay those of the model."""
        return [field for field in super()._fields() if field.tab in ("Optimiser", "Augmentation")]

    def _trainingArguments(self) -> List[str]:
        model = self.inputModel.get()
        words = ["--symmetry", model.getSymmetry(), "--finetune_checkpoint_dir", model.getPath()]
        return self._particleArguments() + words + ["--config_file", self._modelConfig()]

    def _configFile(self) -> Optional[str]:
        return self._modelConfig()

    def _modelConfig(self) -> str:
        return os.path.join(self.inputModel.get().getPath(), "config.yml")

    def _settings(self) -> List[str]:
        """Fields that were left as they are keep the model's own values."""
        model = self.inputModel.get()
        own = (
            []
            if model is None
            else [
                "train.n_epochs_simulation=0",
                f"datamanager.particlesDataset.sampling_rate_angs_for_nnet={model.getSamplingRate()}",
                f"datamanager.particlesDataset.image_size_px_for_nnet={model.getBoxSize()}",
            ]
        )
        return own + super()._settings()

    def _settingsProblems(self) -> List[str]:
        model = self.inputModel.get()
        if model is None:
            return []
        if not os.path.isfile(self._modelConfig()):
            return [f"{self._modelConfig()} is missing: the model's folder was moved or is damaged. Import the model again."]
        return super()._settingsProblems() + self._halfSetProblems(model.getHalfSets())

    def _halfSetProblems(self, names: List[str]) -> List[str]:
        wanted = ["half1", "half2"] if self.split_halfs.get() else ["allParticles"]
        if "simulated" in names or all(name in names for name in wanted):
            return []
        other = "No" if self.split_halfs.get() else "Yes"
        return [f"The model holds {', '.join(names)}, not {' and '.join(wanted)}: set 'One model for each half set?' to {other}."]
