"""`CryoPARES - import model`."""

import os
import shutil
import zipfile
from typing import Any, List

from pwem.protocols import EMProtocol
from pyworkflow.protocol import params

from cryopares_plugin.core_run import run_core
from cryopares_plugin.objects import HALF_SETS, CryoparesModel, model_cards

FILE = "a .cryopares file that cryopares_export_model wrote"


class ProtCryoparesImportModel(EMProtocol):
    """Brings a trained CryoPARES model into the project: from another project, another machine, or the command line."""

    _label = "import model"
    _possibleOutputs = {"outputModel": CryoparesModel}  # noqa: RUF012 -- Scipion's own convention

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Import")
        form.addParam(
            "modelFolder",
            params.PathParam,
            label="Run's folder, or file",
            important=True,
            help="The folder version_0 (or version_N) that cryopares_train leaves, with half1 and half2, or allParticles, in it. "
            "In a Scipion project it lies in the protocol's folder, under extra/training. Or a file .cryopares, which "
            "cryopares_export_model makes of such a folder; nothing in it is ever run.",
        )
        form.addParam(
            "copyFiles",
            params.BooleanParam,
            default=True,
            label="Copy the files?",
            help="Yes: the project has its own copy. No: it has a link, which breaks when the folder is moved. A file is always "
            "unpacked into the project.",
        )

    def getRunDir(self) -> str:
        """The run folder in the project."""
        return self._getExtraPath("training", "version_0")

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.importStep, needsGPU=False)

    def importStep(self) -> None:
        """Copy or link the folder, or unpack the file, and register the model."""
        source, target = self._source(), self.getRunDir()
        shutil.rmtree(os.path.dirname(target), ignore_errors=True)
        os.makedirs(os.path.dirname(target))
        if os.path.isfile(source):
            words = ["--import", source, "--out_dir", target]
            run_core(self, "cryopares_export_model", words, os.path.join(target, "README.txt"))
        elif self.copyFiles.get():
            shutil.copytree(source, target)
        else:
            os.symlink(os.path.abspath(source), target)
        model = CryoparesModel(path=target)
        model.readFolder()
        self._defineOutputs(outputModel=model)

    def _source(self) -> str:
        """The given file or folder, or the folder above it where the user gave that of one half set."""
        folder = (self.modelFolder.get() or "").rstrip("/")
        return os.path.dirname(folder) if os.path.basename(folder) in HALF_SETS else folder

    def _validate(self) -> List[str]:
        folder = self._source()
        if os.path.isfile(folder):
            return [] if zipfile.is_zipfile(folder) else [f"{folder} is no CryoPARES model. Give {FILE}, or the folder of a run."]
        if not os.path.isdir(folder):
            return [f"There is no folder or file {folder}."]
        if model_cards(folder):
            return []
        inside = sorted(name for name in os.listdir(folder) if model_cards(os.path.join(folder, name)))
        hint = f" Did you mean {os.path.join(folder, inside[-1])}?" if inside else " Give the version_N folder of a run."
        return [f"There is no CryoPARES model in {folder} (half1/model.json and model.safetensors, for instance).{hint}"]

    def _summary(self) -> List[str]:
        model = getattr(self, "outputModel", None)
        return ["Not imported yet."] if model is None else [str(model), f"From {self._source()}"]
