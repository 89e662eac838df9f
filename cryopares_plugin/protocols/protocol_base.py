"""What all protocols that run the core share."""

import glob
import os
import shutil
from threading import Event, Thread
from typing import Any, Dict, List, Optional

from pwem.protocols import EMProtocol
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params
from pyworkflow.protocol.constants import GPU_LIST, LEVEL_ADVANCED, USE_GPU
from pyworkflow.utils import cleanPath

from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.parameters import parameters
from cryopares_core.config.point_groups import group_name
from cryopares_core.errors import UserError
from cryopares_core.plots.records import read_run
from cryopares_plugin import Plugin, summary
from cryopares_plugin.form import TABS, add_fields, add_parameter, form_value, overrides, settings_problems, tree_fields
from cryopares_plugin.objects import CryoparesModel
from cryopares_plugin.program import error_text, joined

SECONDS_BETWEEN_LOOKS = 2.0
OUTPUT = "outputModel"
ERROR_FILE_VARIABLE = "CRYOPARES_ERROR_FILE"
ARGUMENTS = parameters(TrainArguments)
SIMULATION = "simulation"


class ProtCryoparesBase(EMProtocol):
    """Runs `cryopares_train` and registers its model as it comes."""

    _possibleOutputs = {OUTPUT: CryoparesModel}  # noqa: RUF012 -- Scipion's own convention

    # ---- form

    @classmethod
    def getClassPackageName(cls) -> str:
        """What the form writes before "compute", above threads and GPUs."""
        return "CryoPARES"

    def _addArgument(self, form: Any, name: str, default: Any = None, level: Optional[int] = None) -> None:
        """An option of the command on the form, under its own name."""
        leaf = ARGUMENTS[name]
        add_parameter(form, name, leaf, leaf.rules.advanced * LEVEL_ADVANCED if level is None else level, default)

    def _addSettings(self, form: Any, tabs: Any = TABS, defaults: Optional[Dict[str, Any]] = None) -> None:
        """A field for any setting at the end of the first tab, and the configuration tree on tabs of its own."""
        form.addParam(
            "extra_settings",
            params.StringParam,
            default="",
            expertLevel=LEVEL_ADVANCED,
            label="Further settings",
            help="Settings as on the command line after --config, such as\n"
            "train.learning_rate=1e-4 models.image2sphere.lmax=8\n"
            "They beat the fields of this form. 'cryopares_train --show-config' lists all.",
        )
        for tab in tabs:
            form.addSection(label=tab)
            add_fields(form, [field for field in self._fields() if field.tab == tab], defaults)

    def _addHardware(self, form: Any) -> None:
        form.addHidden(
            USE_GPU,
            params.BooleanParam,
            default=True,
            label="Use GPU?",
            help="Without a GPU training runs on the processor, which takes much longer.",
        )
        form.addHidden(GPU_LIST, params.StringParam, default="0", label="GPU ID", help="Which GPU, counted as nvidia-smi does.")
        form.addParallelSection(threads=4, mpi=0)

    def _fields(self) -> List[Any]:
        """The tree's parameters on this form. Those of the pretraining are with its map, where there is one."""
        return [field for field in tree_fields() if SIMULATION not in field.name]

    def _simulationFields(self) -> List[Any]:
        return [field for field in tree_fields() if SIMULATION in field.name]

    # ---- running

    def getRunDir(self) -> str:
        """The run folder of the core, relative to the project's folder."""
        return self._getExtraPath("training", "version_0")

    def _runTraining(self, arguments: List[str], settings: List[str]) -> None:
        """Run the core to the end, from its last checkpoint where an earlier try left one; register the model meanwhile.

        Raises PyworkflowException with the core's own sentence when it fails.
        """
        words = self._startOrContinue(arguments)
        words += ["--n_threads", str(self.numberOfThreads.get())]
        words += [] if self.usesGpu() else ["--accelerator", "cpu"]
        words += ["--config", *settings] if settings else []
        error_file = os.path.abspath(self._getTmpPath("error.txt"))
        cleanPath(error_file)  # that of an earlier try
        variables = {ERROR_FILE_VARIABLE: f"'{error_file}'"}
        if self.usesGpu() and not self.useQueue():  # a queue says itself which GPUs are the job's
            variables["CUDA_VISIBLE_DEVICES"] = "%(GPU)s"
        command = Plugin.getProgram("cryopares_train", variables)
        try:
            self._runAndWatch(command, joined(words))
        except Exception as error:
            raise PyworkflowException(error_text(error_file) or f"cryopares_train ended early: {error}") from None
        finally:
            self._registerModel()
        if not read_run(self.getRunDir()).finished:  # a job of a queue tells Scipion that it ended, but not how
            raise PyworkflowException(error_text(error_file) or "cryopares_train ended early. Its messages are in the logs folder.")

    def _startOrContinue(self, arguments: List[str]) -> List[str]:
        """The command's arguments: of a new run, or of one that goes on."""
        if glob.glob(os.path.join(self.getRunDir(), "**", "last.ckpt"), recursive=True):
            self.info("Going on from the last checkpoint.")
            return ["--continue_checkpoint_dir", self.getRunDir(), "--n_epochs", str(self.n_epochs.get())]
        shutil.rmtree(self._getExtraPath("training"), ignore_errors=True)
        return [*arguments, "--train_save_dir", self._getExtraPath("training")]

    def _runAndWatch(self, command: str, arguments: str) -> None:
        """Run a command; meanwhile look from time to time whether there is a better model to show."""
        ended = Event()

        def watch() -> None:
            while not ended.wait(SECONDS_BETWEEN_LOOKS):
                self._registerModel()

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            # In the step's own thread: that is how Scipion knows which GPUs and which job of a queue are this step's.
            self.runJob(command, arguments, numberOfThreads=1, numberOfMpi=1)
        finally:
            ended.set()
            watcher.join()

    # ---- output

    def _registerModel(self) -> None:
        """Make or bring up to date the output, from the models that the core has saved so far."""
        model = getattr(self, OUTPUT, None)
        found = CryoparesModel(path=self.getRunDir())
        if not found.readFolder() or (model is not None and model.equalAttributes(found)):
            return
        if model is None:
            self._defineOutputs(**{OUTPUT: found})
            for source in self._sources():
                self._defineSourceRelation(source, found)
        else:
            model.copy(found, copyId=False)
        self._store(getattr(self, OUTPUT))

    def _sources(self) -> List[Any]:
        """Pointers to what the model was made from."""
        names = ("inputParticles", "inputModel", "inputVolume")
        pointers = [getattr(self, name, None) for name in names]
        return [pointer for pointer in pointers if pointer is not None and pointer.get() is not None]

    # ---- settings

    def _settings(self) -> List[str]:
        """What differs from the schema's defaults, as words for --config."""
        return overrides(self, self._fields(), self.extra_settings.get() or "")

    def _settingsProblems(self) -> List[str]:
        return settings_problems(self._settings(), self.batch_size.get())

    def _argument(self, name: str) -> List[str]:
        """An option's words, none where it is left empty."""
        value = form_value(self, name, ARGUMENTS[name])
        return [] if value is None else [f"--{name}", str(value)]

    def _symmetryProblems(self) -> List[str]:
        try:
            group_name(self.symmetry.get() or "")
        except UserError as error:
            return error.problems
        return []

    # ---- what users read

    def _summary(self) -> List[str]:
        return summary.summary(self.getRunDir(), getattr(self, OUTPUT, None))

    def _methods(self) -> List[str]:
        return summary.methods(self.getRunDir(), self._methodsInput())

    def _methodsInput(self) -> str:
        """What the network was trained on, for the paragraph."""
        return "particles of known pose"

    def _citations(self) -> List[str]:
        return ["SanchezGarcia2025"]
