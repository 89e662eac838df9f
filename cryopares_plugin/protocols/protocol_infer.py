"""`CryoPARES - infer`."""

from typing import Any, List, Optional

from pyworkflow.protocol import Protocol, params
from pyworkflow.protocol.constants import GPU_LIST, LEVEL_ADVANCED, LEVEL_NORMAL, USE_GPU

from cryopares_core.config.infer_arguments import EVIDENCES, NETWORK, ONE_MODEL, POLICIES, InferArguments
from cryopares_core.config.parameters import parameters
from cryopares_core.config.reconstruct_arguments import ReconstructArguments
from cryopares_plugin import inference_record
from cryopares_plugin.core_run import gpu_problems
from cryopares_plugin.form import add_parameter, form_value
from cryopares_plugin.infer_checks import MASK_LABEL, REFERENCE_LABEL, Request, infer_problems, infer_warnings
from cryopares_plugin.protocols.protocol_infer_outputs import ProtCryoparesInferOutputs
from cryopares_plugin.protocols.protocol_infer_steps import HALF_REFERENCES, MASK, REFERENCE

INFER, RECONSTRUCT = parameters(InferArguments), parameters(ReconstructArguments)
FINDING = (
    *("evidence", "policy", "model", "top_k", "confidence_threshold"),
    *("consensus", "consensus_max_error_degs", "quarter_turns", "batch_size"),
)
FOR_EXPERTS = ("top_k", "consensus", "consensus_max_error_degs", "quarter_turns", "batch_size")
USES_MAP = f"refine or evidence!={EVIDENCES.index(NETWORK)}"
LEAST_THREADS = 3  # while particles come
MODEL_HELP = "A model of CryoPARES train or fine-tune, or an imported one."
PARTICLES_HELP = (
    "Particles of the same, or nearly the same, complex. They need no poses; shifts of an earlier alignment, in 2D or 3D, centre "
    "them. Box and pixel size may differ from those of the training. Half sets (rlnRandomSubset) are kept, or drawn where there "
    "are none. The set may still be growing."
)
REFERENCE_HELP = (
    "Empty: the map that each half set of the training made of its own particles. A volume with half maps gives each half set its "
    "own, so that they stay independent."
)
MASK_HELP = "Of the particles' box and pixel size. Empty: a soft sphere."
STREAMING = (
    (
        "streamingBatchSize",
        2000,
        "New particles before a start",
        "While particles are still coming, poses are found whenever there are so many new ones. Each time the model is loaded "
        "anew, which takes some seconds.",
    ),
    ("streamingSleepOnWait", 30, "Look for new ones every (seconds)", "How long to wait before the input is looked at again."),
)


class ProtCryoparesInfer(ProtCryoparesInferOutputs):
    """Finds the poses of particles with a trained model, and how sure they are; refines them and makes half maps if that is
    wanted. The particles may still be coming: new ones are taken on as they appear.
    """

    _label = "infer"

    # ---- form

    @classmethod
    def getClassPackageName(cls) -> str:
        """What the form writes before "compute", above threads and GPUs."""
        return "CryoPARES"

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Input")
        self._addInput(form)
        for name in FINDING:
            self._addOption(form, name, condition=f"policy=={POLICIES.index(ONE_MODEL)}" if name == "model" else "")
        form.addParam(
            "keepDiscarded",
            params.BooleanParam,
            default=False,
            label="Output the other particles as well?",
            help="Those with less confidence than that, and pictures that could not be used (confidence 0), become a set of their "
            "own.",
        )
        form.addSection(label="Refine and reconstruct")
        self._addMaps(form)
        self._addStreaming(form)
        self._addHardware(form)

    def _addInput(self, form: Any) -> None:
        _add_pointer(form, "inputModel", "CryoparesModel", "Model", MODEL_HELP, important=True)
        _add_pointer(form, "inputParticles", "SetOfParticles", "Particles", PARTICLES_HELP, important=True)

    def _addMaps(self, form: Any) -> None:
        self._addOption(form, "refine")
        _add_pointer(form, "referenceVolume", "Volume", REFERENCE_LABEL, REFERENCE_HELP, allowsNull=True, condition=USES_MAP)
        self._addOption(form, "resolution_angs", condition="refine")
        self._addOption(form, "reconstruct")
        _add_pointer(form, "maskVolume", "VolumeMask", MASK_LABEL, MASK_HELP, allowsNull=True, condition="reconstruct")
        add_parameter(form, "mask_radius_angs", RECONSTRUCT["mask_radius_angs"], LEVEL_ADVANCED)
        _show_if(form, "mask_radius_angs", "reconstruct")

    def _addStreaming(self, form: Any) -> None:
        form.addSection(label="Streaming")
        for name, default, label, help in STREAMING:
            form.addParam(name, params.IntParam, default=default, validators=[params.Positive], label=label, help=help)

    def _addHardware(self, form: Any) -> None:
        processor = "Without a GPU the processor does it, which takes much longer."
        form.addHidden(USE_GPU, params.BooleanParam, default=True, label="Use GPU?", help=processor)
        which = "Which GPUs share the work, counted as nvidia-smi does: 0, or 0,1, or 0-3; nothing for all of this machine."
        form.addHidden(GPU_LIST, params.StringParam, default="0", allowsNull=True, label="GPU IDs", help=which)
        form.addParallelSection(threads=3, mpi=0, binThreads=4)

    def _addOption(self, form: Any, name: str, condition: str = "") -> None:
        """An option of the command on the form, under its own name."""
        add_parameter(form, name, INFER[name], LEVEL_ADVANCED if name in FOR_EXPERTS else LEVEL_NORMAL)
        if condition:
            _show_if(form, name, condition)

    # ---- the commands' arguments

    def _option(self, name: str) -> List[str]:
        """An option's words, none where it is left empty."""
        value = form_value(self, name, INFER[name])
        return [] if value is None else [f"--{name}", str(value)]

    def _inferArguments(self) -> List[str]:
        names = [name for name in FINDING if name != "model" or self._policy() == ONE_MODEL]
        words = ["--checkpoint_dir", self.inputModel.get().getPath()]
        for name in (*names, *(("refine", "resolution_angs") if self.refine.get() else ())):
            words += self._option(name)
        given = self._maps()
        if REFERENCE in given:
            words += ["--reference_fname", self._getExtraPath(REFERENCE)]
        if HALF_REFERENCES[0] in given:
            words += ["--reference_fname", self._getExtraPath(HALF_REFERENCES[0])]
            words += ["--reference_half2_fname", self._getExtraPath(HALF_REFERENCES[1])]
        return words

    def _reconstructArguments(self) -> List[str]:
        words = ["--symmetry", self.inputModel.get().getSymmetry()]
        particles = self.inputParticles.get()
        words += ["--ctf_correction", "False"] if particles.isAmplitudeCorrected() or not particles.hasCTF() else []
        if MASK in self._maps():
            words += ["--mask_fname", self._getExtraPath(MASK)]
        elif self.mask_radius_angs.get():
            words += ["--mask_radius_angs", str(self.mask_radius_angs.get())]
        return words

    def _policy(self) -> str:
        return str(form_value(self, "policy", INFER["policy"]))

    def _evidence(self) -> str:
        return str(form_value(self, "evidence", INFER["evidence"]))

    # ---- what users read

    def _validate(self) -> List[str]:
        return self._problems() or self._changesOfRun()

    def _problems(self) -> List[str]:
        """All that is wrong with the form, one sentence each."""
        request = self._request()
        return [] if request is None else infer_problems(request) + self._machineProblems() + self._modelProblems()

    def _machineProblems(self) -> List[str]:
        found = gpu_problems(self)
        if self.numberOfThreads.get() < LEAST_THREADS and self.inputParticles.get().isStreamOpen():
            found.append(
                f"The particles are still coming: give at least {LEAST_THREADS} Scipion threads. One leads, one waits for "
                "particles, and one works."
            )
        return found

    def _modelProblems(self) -> List[str]:
        training = self.inputModel.getObjValue()
        if not isinstance(training, Protocol) or not training.isActive():
            return []
        return [
            f"'{training.getRunName()}' is still training the model. Schedule this run, which then waits for the end, or stop the "
            "training to use what it has."
        ]

    def _warnings(self) -> List[str]:
        request = self._request()
        return [] if request is None else infer_warnings(request)

    def _request(self) -> Optional[Request]:
        """What is asked for; None where an input is missing."""
        model, particles = self.inputModel.get(), self.inputParticles.get()
        if model is None or particles is None:
            return None
        reference, name = self.referenceVolume.get(), form_value(self, "model", INFER["model"])
        wanted = (self._policy(), name or "", self.refine.get(), reference, self.reconstruct.get())
        found_by = (self._evidence(), self._asksConsensus(), self.quarter_turns.get())
        return Request(model, particles, *wanted, self.maskVolume.get(), self.mask_radius_angs.get(), *found_by)

    def _summary(self) -> List[str]:
        lines = inference_record.summary(self._getExtraPath())
        if self.isFinished() and self.reconstruct.get() and not self.hasAttribute("outputVolume"):
            lines.append("There is no map: it needs particles of both half sets. Lower 'Least confidence', and continue the run.")
        return lines

    def _methods(self) -> List[str]:
        return inference_record.methods(self._getExtraPath())

    def _citations(self) -> List[str]:
        return ["SanchezGarcia2025"]


def _show_if(form: Any, name: str, condition: str) -> None:
    """Hide a field of the form where a condition on others does not hold."""
    field = form.getParam(name)
    field.condition.set(condition)
    form.registerParam(name, field)


def _add_pointer(form: Any, name: str, kind: str, label: str, help: str, **more: Any) -> None:
    form.addParam(name, params.PointerParam, pointerClass=kind, label=label, help=help, **more)
