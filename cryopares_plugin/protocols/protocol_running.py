"""How a protocol runs a training of the core: on which machine's parts, from where an earlier try was stopped, to its end."""

import json
import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List

from pwem.protocols import EMProtocol
from pyworkflow.exceptions import PyworkflowException

from cryopares_core.plots.records import read_run
from cryopares_plugin import Plugin
from cryopares_plugin.core_run import core_variables, new_error_file
from cryopares_plugin.files import appearing
from cryopares_plugin.keeper import protocol_lives, wait_for_earlier
from cryopares_plugin.program import error_text, joined, kept, program
from cryopares_plugin.resume import GOES_ON, STOPPED, is_begun, pointed_at, remove_unbegun

SECONDS_BETWEEN_LOOKS = 2.0
INPUTS = ("inputParticles", "inputModel", "inputVolume")
# The shell waits for the training to save when a batch system tells all processes of a job to end.
PATIENT_SHELL = "trap : TERM; "


class ProtCryoparesRunning(EMProtocol):
    """Runs `cryopares_train`, which can save where it is however the protocol is stopped."""

    def getRunDir(self) -> str:
        """The run folder of the core, relative to the project's folder."""
        return self._getExtraPath("training", "version_0")

    def _runTraining(self, arguments: List[str], settings: List[str]) -> None:
        """Run the core to the end, from its last checkpoint where an earlier try left one; register the model meanwhile.

        Raises PyworkflowException with the core's own sentence when it fails.
        """
        wait_for_earlier(self._trainingLock(), self.info)
        if not is_begun(self.getRunDir()):
            with appearing(self._inputsFile()) as file:
                json.dump(pointed_at(self, INPUTS), file)
        words = self._startOrContinue(arguments, settings)
        error_file = new_error_file(self, "cryopares_train")
        try:
            self._runAndWatch(PATIENT_SHELL + self._command(error_file), joined(words))
        except Exception as error:
            raise PyworkflowException(error_text(error_file) or _ended_text(error)) from None
        finally:
            self._registerModel()
        if not read_run(self.getRunDir()).finished:  # a job of a queue tells Scipion that it ended, but not how
            raise PyworkflowException(error_text(error_file) or _ended_text(None))

    def _startOrContinue(self, arguments: List[str], settings: List[str]) -> List[str]:
        """The command's arguments: of a new run, or of one that goes on with the settings that it began with."""
        folder = self._getExtraPath("training")
        words = ["--train_save_dir", folder, *self._machineArguments()]
        if is_begun(self.getRunDir()):
            self.info("Going on from the last checkpoint.")
            own = self._settingsOfContinuing()
            words += ["--continue_checkpoint_dir", self.getRunDir(), "--n_epochs", str(self.n_epochs.get())]
        else:
            remove_unbegun(folder)
            own, words = settings, [*arguments, *words]
        return [*words, "--config", *own] if own else words

    def _inputsFile(self) -> str:
        """Which objects the run began with."""
        return self._getExtraPath("inputs.json")

    def _settingsOfContinuing(self) -> List[str]:
        """Settings that another value is wanted for in a run that goes on."""
        return []

    def _machineArguments(self) -> List[str]:
        """What may change from one start of a run to the next."""
        scratch = os.path.expandvars(os.path.expanduser(self.scratch_dir.get() or ""))
        accelerator = "auto" if self.usesGpu() else "cpu"
        words = ["--n_threads", str(self.numberOfThreads.get()), "--accelerator", accelerator]
        return [*words, "--devices", "none", "--scratch_dir", scratch]

    def _command(self, error_file: str) -> str:
        """The shell words that run the core, where an error goes to a file."""
        # A job of its own is told to end by its queue.
        start = "-m" if self.useQueueForSteps() else kept(self._protocolLock(), self._trainingLock())
        return program("cryopares_train", Plugin.getActivation() or "", core_variables(self, error_file), start)

    def _protocolLock(self) -> str:
        return os.path.abspath(self._getTmpPath("running.lock"))

    def _trainingLock(self) -> str:
        """Not in the protocol's own folder, which goes when it is restarted: a training may still be saving then."""
        path = os.path.abspath(self.getProject().getTmpPath(f"cryopares_{self.strId()}.lock"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _runAndWatch(self, command: str, arguments: str) -> None:
        """Run a command; meanwhile look from time to time whether there is a better model to show."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SECONDS_BETWEEN_LOOKS):
                self._registerModel()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            with protocol_lives(self._protocolLock()) as let_end, _on_termination(let_end):
                # In the step's own thread: that is how Scipion knows which job of a queue is this step's.
                self.runJob(command, arguments, numberOfThreads=1, numberOfMpi=1)
        finally:
            ended.set()
            watcher.join()

    def _registerModel(self) -> None:
        raise NotImplementedError


@contextmanager
def _on_termination(act: Any) -> Iterator[None]:
    """SIGTERM, as a batch system sends it before it kills, calls a function within the `with` block, and the block goes on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    earlier = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _ended_text(error: Any) -> str:
    """Why a training that left no sentence has ended."""
    if isinstance(error, subprocess.CalledProcessError) and error.returncode == STOPPED:
        return f"The training was told to end, by a batch system or somebody else, and has saved the step it was at. {GOES_ON}"
    how = f": {error}" if error else ""
    return f"cryopares_train ended early{how}. Its messages are in the logs folder. Where it has saved a checkpoint, {GOES_ON}"
