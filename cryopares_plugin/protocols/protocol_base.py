"""What all protocols that run the core share."""

from pathlib import Path
from typing import Any, Dict, List, Optional

from pyworkflow.protocol import params
from pyworkflow.protocol.constants import GPU_LIST, LEVEL_ADVANCED, MODE_RESUME, USE_GPU

from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.merge import load_config
from cryopares_core.config.parameters import parameters
from cryopares_core.config.point_groups import group_name
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.plots.readers import read_json
from cryopares_plugin import summary
from cryopares_plugin.core_run import gpu_problems
from cryopares_plugin.form import TABS, add_fields, add_parameter, form_value, help_text, overrides, tree_fields
from cryopares_plugin.objects import CryoparesModel
from cryopares_plugin.protocols.protocol_running import INPUTS, ProtCryoparesRunning
from cryopares_plugin.resume import changed_fields, differences, is_begun, pointed_at

OUTPUT = "outputModel"
ARGUMENTS = parameters(TrainArguments)
SIMULATION = "simulation"
# Options of the command that make a run what it is.
OF_THE_RUN = ("symmetry", "batch_size", "split_halfs", "compile_model", "overfit_batches", "val_check_interval")


class ProtCryoparesBase(ProtCryoparesRunning):
    """The form of a training, its model as it comes, and what users read of it."""

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
        """The scratch folder and a field for any setting at the end of the first tab; the configuration tree on its own tabs."""
        self._addScratch(form)
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

    def _addScratch(self, form: Any) -> None:
        form.addParam(
            "scratch_dir",
            params.FolderParam,
            default="",
            allowsNull=True,
            expertLevel=LEVEL_ADVANCED,
            label="Scratch folder",
            help=help_text(ARGUMENTS["scratch_dir"]) + "\nThe path may have variables in it, such as $TMPDIR; in a queue it is "
            "the node's. 'cryopares_cache list FOLDER' shows what is there.",
        )

    def _addHardware(self, form: Any) -> None:
        form.addHidden(
            USE_GPU,
            params.BooleanParam,
            default=True,
            label="Use GPU?",
            help="Without a GPU training runs on the processor, which takes much longer.",
        )
        form.addHidden(
            GPU_LIST,
            params.StringParam,
            default="0",
            allowsNull=True,
            label="GPU IDs",
            help="Which GPUs train together, counted as nvidia-smi does: 0, or 0,1, or 0-3; nothing for all of this machine. In a "
            "queue the training takes those that its job has been given, whatever stands here. They may be others when a run "
            "goes on.",
        )
        form.addParallelSection(threads=4, mpi=0)

    def _fields(self) -> List[Any]:
        """The tree's parameters on this form. Those of the pretraining are with its map, where there is one."""
        return [field for field in tree_fields() if SIMULATION not in field.name]

    def _simulationFields(self) -> List[Any]:
        return [field for field in tree_fields() if SIMULATION in field.name]

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
        pointers = [getattr(self, name, None) for name in INPUTS]
        return [pointer for pointer in pointers if pointer is not None and pointer.get() is not None]

    # ---- settings

    def _settings(self) -> List[str]:
        """What differs from the schema's defaults, as words for --config."""
        return overrides(self, self._fields(), self.extra_settings.get() or "")

    def _config(self) -> Config:
        """The configuration tree that the form asks for. Raises UserError with all that is wrong."""
        recipe = form_value(self, "recipe", ARGUMENTS["recipe"]) if hasattr(self, "recipe") else ARGUMENTS["recipe"].default
        return load_config(self._configFile(), self._settings(), recipe)

    def _configFile(self) -> Optional[str]:
        """A file with values in place of the schema's defaults."""
        return None

    def _settingsProblems(self) -> List[str]:
        """All that the schema has against the settings, one sentence each."""
        try:
            config = self._config()
        except UserError as error:
            return error.problems
        batch_size = self.batch_size.get()  # of an empty one the field itself tells
        return [] if batch_size is None else config.batch_problems(batch_size)

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

    def _validate(self) -> List[str]:
        problems = self._problems() + gpu_problems(self)
        return problems or self._changesOfRun()

    def _problems(self) -> List[str]:
        """All that is wrong with the form, one sentence each."""
        raise NotImplementedError

    def _changesOfRun(self) -> List[str]:
        """What was changed on the form of a run that goes on, which would no longer be that run."""
        if self.runMode.get() != MODE_RESUME or not is_begun(self.getRunDir()):
            return []
        options = {name: form_value(self, name, ARGUMENTS[name]) for name in OF_THE_RUN if hasattr(self, name)}
        others = changed_fields(self, pointed_at(self, INPUTS), read_json(Path(self._inputsFile())))
        found = [f"{label} (another object)" for label in others] + differences(self.getRunDir(), options, self._config())
        if not found:
            return []
        return [
            f"This run was begun with other settings: {'; '.join(found)}. Set them back to go on with it, or choose the run mode "
            "Restart, which throws away what was trained. (Epochs, GPUs, threads and scratch folder may change.)"
        ]

    def _summary(self) -> List[str]:
        return summary.summary(self.getRunDir(), getattr(self, OUTPUT, None), goes_on=self.isActive())

    def _methods(self) -> List[str]:
        return summary.methods(self.getRunDir(), self._methodsInput())

    def _methodsInput(self) -> str:
        """What the network was trained on, for the paragraph."""
        return "particles of known pose"

    def _citations(self) -> List[str]:
        return ["SanchezGarcia2025"]
