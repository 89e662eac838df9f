"""Training runs that go on: whether one was begun, and what of it a form may no longer change."""

import glob
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from cryopares_core.config.merge import load_config
from cryopares_core.config.parameters import get_value, parameters
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.plots.readers import read_json

STOPPED = 75  # the exit code of a training that was told to end, and has saved where it was
GOES_ON = "Continue (run mode) goes on from there."


def is_begun(run_dir: str) -> bool:
    """Whether a run has a checkpoint to go on from."""
    found = glob.glob(os.path.join(run_dir, "**", "last.ckpt"), recursive=True)
    return bool(found) and os.path.isfile(os.path.join(run_dir, "run.json"))


def remove_unbegun(training_dir: str) -> None:
    """Remove the folders of runs without a checkpoint; pictures that were prepared beside them stay."""
    for folder in glob.glob(os.path.join(training_dir, "version_*")):
        shutil.rmtree(folder)


def differences(run_dir: str, options: Dict[str, Any], config: Config) -> List[str]:
    """What is asked for now and is not what a run began with: `learning_rate: 0.0005 instead of 0.001`.

    Parameters
    ----------
    options : options of `cryopares_train` by name
    """
    given = read_json(Path(run_dir) / "run.json").get("arguments", {})
    pairs = [(name, value, given[name]) for name, value in options.items() if name in given]
    try:
        earlier = load_config(os.path.join(run_dir, "config.yml"))
    except UserError:  # of another version: the core says what is wrong with it
        return []
    pairs += [(name.rpartition(".")[2], get_value(config, name), get_value(earlier, name)) for name in parameters(Config)]
    return [f"{name}: {_text(now)} instead of {_text(before)}" for name, now, before in pairs if now != before]


def pointed_at(protocol: Any, names: Iterable[str]) -> Dict[str, Optional[int]]:
    """The ids of the objects that some pointers stand for, by the names of those that the form has; None where there is none."""
    objects = {name: getattr(protocol, name).get() for name in names if hasattr(protocol, name)}
    return {name: None if found is None else found.getObjId() for name, found in objects.items()}


def changed_fields(protocol: Any, asked: Dict[str, Any], known: Dict[str, Any]) -> List[str]:
    """What is not as it was when a run began, so far as that is known: labels of the form's fields, and names of other things."""
    changed = [name for name, value in asked.items() if name in known and value != known[name]]
    return [protocol.getParam(name).label.get() if protocol.hasAttribute(name) else name for name in changed]


def _text(value: Any) -> str:
    return "empty" if value is None else str(value)
