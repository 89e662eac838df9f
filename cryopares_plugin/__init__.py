"""CryoPARES in Scipion: a thin skin over `cryopares_core`, which it reaches through command lines.

Nothing here imports torch, so that Scipion's forms open at once and the core may live in another environment.
"""

import shlex
import sys

import pwem

from cryopares_core import __version__
from cryopares_plugin.constants import CRYOPARES_ENV_ACTIVATION

__all__ = ["Plugin", "__version__"]

_references = ["SanchezGarcia2025"]


class Plugin(pwem.Plugin):
    """What Scipion asks of a plugin."""

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(
            CRYOPARES_ENV_ACTIVATION,
            "",
            description="Command that activates the environment of the CryoPARES core, for instance "
            "'. /opt/cryopares/bin/activate'. Empty where the core is in Scipion's own environment.",
        )

    @classmethod
    def getProgram(cls, module: str) -> str:
        """The shell command that runs a command of the core, such as `cryopares_train`, in the core's environment."""
        activation = (cls.getVar(CRYOPARES_ENV_ACTIVATION) or "").strip().rstrip(";& ")
        if not activation:
            return f"{shlex.quote(sys.executable)} -m {module}"
        return f"{activation} && python -m {module}"
