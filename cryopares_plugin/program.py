"""Command lines of the core, and the environment that they run in."""

import importlib.util
import os
import shlex
import sys
from typing import Dict, List, Optional

from cryopares_plugin import keeper

# The core's packages that are hard to have by chance: where all are found, the core can run.
CORE_PACKAGES = ("torch", "lightning", "healpy", "starfile", "safetensors")


def core_is_here() -> bool:
    """Whether the core's packages are in this environment; looks for them without importing any."""
    return all(importlib.util.find_spec(name) for name in CORE_PACKAGES)


def program(module: str, activation: str, variables: Optional[Dict[str, str]] = None, start: str = "-m") -> str:
    """The shell words that run a command of the core, such as `cryopares_train`, for /bin/sh.

    Parameters
    ----------
    activation : words that open the core's environment; empty: the core is in this one
    variables : environment variables for the command
    start : Python's words before the module; see `kept`
    """
    exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in (variables or {}).items())
    if not activation:
        return f"{exports}{shlex.quote(sys.executable)} {start} {module}"
    # Scipion's own packages would come before those of the other environment.
    return f"{exports}unset PYTHONPATH PYTHONHOME; {activation} && python {start} {module}"


def kept(protocol_lock: str, training_lock: str) -> str:
    """The words that start a module through the keeper, in whichever Python runs it."""
    return joined([keeper.__file__, protocol_lock, training_lock])


def joined(words: List[str]) -> str:
    """Arguments as one text for the shell."""
    return " ".join(shlex.quote(str(word)) for word in words)


def error_text(path: str) -> str:
    """What the core left in its error file, in one line; empty where there is nothing."""
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8") as file:
        text = " ".join(file.read().split())
    return text[len("Error: ") :] if text.startswith("Error: ") else text
