"""How protocols give particles to the core and run its commands: on which GPUs, and what becomes of errors."""

import os
from typing import Any, Dict, List

from pyworkflow.exceptions import PyworkflowException
from pyworkflow.utils import cleanPath

from cryopares_core.errors import UserError
from cryopares_core.progress import Countdown
from cryopares_plugin import Plugin
from cryopares_plugin.convert import write_particles
from cryopares_plugin.program import error_text, joined

ERROR_FILE_VARIABLE = "CRYOPARES_ERROR_FILE"
GOES_ON = "Its messages are in the logs folder. Continue (run mode) goes on from what was done."


def run_core(protocol: Any, command: str, words: List[str], written_last: str) -> None:
    """Run a command of the core to its end.

    Parameters
    ----------
    written_last : the file that the command writes when all went well

    Raises
    ------
    PyworkflowException : it failed; with the core's own sentence
    """
    error_file = new_error_file(protocol, command)
    how = ""
    try:
        protocol.runJob(Plugin.getProgram(command, core_variables(protocol, error_file)), joined(words))
    except Exception as error:
        how = f": {error}"
    if how or not os.path.isfile(written_last):  # a job of a queue tells Scipion that it ended, but not how
        raise PyworkflowException(error_text(error_file) or f"{command} ended early{how}. {GOES_ON}")


def write_star(protocol: Any, particles: Any, star: str, **options: Any) -> None:
    """Write particles for the core, with progress in the protocol's log; `options` are those of `write_particles`.

    Raises
    ------
    PyworkflowException : they cannot be written; with the reasons
    """
    try:
        done = write_particles(particles, star, progress=Countdown("Wrote", "particles", protocol.info), **options)
    except UserError as error:
        raise PyworkflowException(" ".join(error.problems)) from None
    protocol.info(f"{star}: {done}")


def new_error_file(protocol: Any, command: str) -> str:
    """Where a command is to leave its error; that of an earlier try is removed."""
    path = os.path.abspath(protocol._getTmpPath(f"{command}.error"))
    cleanPath(path)
    return path


def core_variables(protocol: Any, error_file: str) -> Dict[str, str]:
    """Environment variables of a command."""
    variables = {ERROR_FILE_VARIABLE: error_file}
    if protocol.usesGpu() and protocol.getGpuList() and not protocol.useQueue():  # a queue says itself which are the job's
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, dict.fromkeys(protocol.getGpuList())))
    return variables


def gpu_problems(protocol: Any) -> List[str]:
    """What is wrong with the form's list of GPUs."""
    try:
        protocol.getGpuList()
    except ValueError:
        return [f"GPU IDs: '{protocol.gpuList.get()}' is not a list of numbers. Write 0, or 0,1, or 0-3; nothing for all GPUs."]
    return []
