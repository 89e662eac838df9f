"""CryoPARES in Scipion: a thin skin over `cryopares_core`, which it reaches through command lines.

Nothing here imports torch, so that Scipion's forms open at once and the core may live in another environment.
"""

import os
from typing import Dict, List, Optional

import pwem
import pyworkflow as pw

from cryopares_core import __version__
from cryopares_plugin.constants import CRYOPARES, CRYOPARES_ENV_ACTIVATION
from cryopares_plugin.install import install_command
from cryopares_plugin.program import core_is_here, program

__all__ = ["Plugin", "__version__"]

_references = ["SanchezGarcia2025"]


class Plugin(pwem.Plugin):
    """What Scipion asks of a plugin."""

    _url = "https://github.com/scipion-em/scipion-em-cryopares"
    _supportedVersions = [__version__]  # noqa: RUF012 -- Scipion's own convention

    def getName(self) -> str:
        """The name before each protocol's own: `CryoPARES - train`."""
        return "CryoPARES"

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(
            CRYOPARES_ENV_ACTIVATION,
            "",
            description="Command that activates the environment of the CryoPARES core, for instance "
            "'. /opt/cryopares/bin/activate'. Empty where the core is in Scipion's own environment, or was put in by "
            "'scipion installb cryopares'.",
        )

    @classmethod
    def getActivation(cls) -> Optional[str]:
        """The words that open the core's environment: none are needed where Scipion's own has the core; None: there is no core."""
        if core_is_here():
            return ""
        named = (cls.getVar(CRYOPARES_ENV_ACTIVATION) or "").strip().rstrip(";& ")
        installed = os.path.join(cls._installed_folder(), "env", "bin", "activate")
        return named or (f". {installed}" if os.path.isfile(installed) else None)

    @classmethod
    def getProgram(cls, module: str, variables: Optional[Dict[str, str]] = None) -> str:
        """The shell command that runs a command of the core, such as `cryopares_train`, in the core's environment."""
        return program(module, cls.getActivation() or "", variables)

    @classmethod
    def validateInstallation(cls) -> List[str]:
        """What is wrong with the installation; Scipion shows it in the form."""
        if cls.getActivation() is not None:
            return []
        return [
            "The CryoPARES core (PyTorch and the rest) is not installed. Run 'scipion installb cryopares', or name an environment "
            f"that has it in {CRYOPARES_ENV_ACTIVATION} (scipion.conf)."
        ]

    @classmethod
    def defineBinaries(cls, env):
        """`scipion installb cryopares`: the core in an environment of its own, by conda where Scipion has it, else venv."""
        commands = [(install_command(pw.Config.CONDA_ACTIVATION_CMD), ["env/core_installed"])]
        env.addPackage(CRYOPARES, version=__version__, tar="void.tgz", commands=commands, default=False)

    @classmethod
    def _installed_folder(cls) -> str:
        return os.path.join(pwem.Config.EM_ROOT, f"{CRYOPARES}-{__version__}")
