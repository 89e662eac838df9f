"""`CryoPARES - import model`."""

import os
import shutil
from typing import Any, List

from pwem.protocols import EMProtocol
from pyworkflow.protocol import params

from cryopares_plugin.objects import HALF_SETS, CryoparesModel, model_cards


class ProtCryoparesImportModel(EMProtocol):
    """Brings a trained CryoPARES model into the project: from another project, another machine, or the command line."""

    _label = "import model"
    _possibleOutputs = {"outputModel": CryoparesModel}  # noqa: RUF012 -- Scipion's own convention

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Import")
        form.addParam(
            "modelFolder",
            params.FolderParam,
            label="Folder of the run",
            important=True,
            help="The folder version_0 (or version_N) that cryopares_train leaves, with half1 and half2, or allParticles, in it. "
            "In a Scipion project it lies in the protocol's folder, under extra/training.",
        )
        form.addParam(
            "copyFiles",
            params.BooleanParam,
            default=True,
            label="Copy the files?",
            help="Yes: the project has its own copy. No: it has a link, which breaks when the folder is moved.",
        )

    def getRunDir(self) -> str:
        """The run folder in the project."""
        return self._getExtraPath("training", "version_0")

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.importStep, needsGPU=False)

    def importStep(self) -> None:
        """Copy or link the folder, and register the model."""
        source, target = self._source(), self.getRunDir()
        shutil.rmtree(os.path.dirname(target), ignore_errors=True)
        os.makedirs(os.path.dirname(target))
        if self.copyFiles.get():
            shutil.copytree(source, target)
        else:
            os.symlink(os.path.abspath(source), target)
        model = CryoparesModel(path=target)
        model.readFolder()
        self._defineOutputs(outputModel=model)

    def _source(self) -> str:
        """The given folder, or the one above it where the user gave that of one half set."""
        folder = (self.modelFolder.get() or "").rstrip("/")
        return os.path.dirname(folder) if os.path.basename(folder) in HALF_SETS else folder

    def _validate(self) -> List[str]:
        folder = self._source()
        if not os.path.isdir(folder):
            return [f"There is no folder {folder}."]
        if model_cards(folder):
            return []
        inside = sorted(name for name in os.listdir(folder) if model_cards(os.path.join(folder, name)))
        hint = f" Did you mean {os.path.join(folder, inside[-1])}?" if inside else " Give the version_N folder of a run."
        return [f"There is no CryoPARES model in {folder} (half1/model.json and model.safetensors, for instance).{hint}"]

    def _summary(self) -> List[str]:
        model = getattr(self, "outputModel", None)
        return ["Not imported yet."] if model is None else [str(model), f"From {self._source()}"]
