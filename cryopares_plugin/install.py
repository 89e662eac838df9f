"""How `scipion installb cryopares` puts the core into an environment of its own."""

import os

from cryopares_core import __version__

# Scipion's pinned packages and the core's meet on 3.11; the core alone runs on any of these.
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3")


def install_command(conda_activation: str = "") -> str:
    """A shell command for the package's folder: it makes `env/` and leaves `env/core_installed` when all is there.

    Parameters
    ----------
    conda_activation : Scipion's CONDA_ACTIVATION_CMD; empty: Python's own venv makes the environment
    """
    make = _conda(conda_activation) if conda_activation else _venv()
    return f"rm -rf env && {make} && env/bin/python -m pip install {_distribution()} && touch env/core_installed"


def _venv() -> str:
    candidates = " || ".join(f"{{ command -v {name}; }}" for name in PYTHONS)
    return f'"$({candidates})" -m venv env'


def _conda(activation: str) -> str:
    activation = activation.strip().rstrip(";& ")
    # `activate` is what the plugin looks for; in a conda environment it is ours.
    script = "printf 'PATH=%s/env/bin:$PATH; export PATH\\n' \"$PWD\" > env/bin/activate"
    return f"{activation} && conda create -y -p ./env python=3.11 pip && {script}"


def _distribution() -> str:
    """The released core of this version, or that of the clone which this file lies in."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.isfile(os.path.join(folder, "setup.py")):
        return f"'{folder}[core]'"
    return f"'scipion-em-cryopares[core]=={__version__}'"
