"""The folders of runs: a new one, or that of the same run when its command is given again."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryopares_core.errors import UserError
from cryopares_core.files import stamps, write_text
from cryopares_core.plots.readers import read_json

logger = logging.getLogger(__name__)
# What may be another for the same run: where and how fast it is computed.
OF_THE_MACHINE = ("n_threads", "accelerator", "devices", "scratch_dir", "continue_checkpoint_dir")


def same_run(save_dir: Path, arguments: dict[str, Any], settings: str, inputs: dict[str, Any]) -> Path | None:
    """The folder `version_N` of the newest run of the same arguments, settings and input files; None where there is none.

    Parameters
    ----------
    arguments, inputs : as `run.json` has them
    settings : the text of `config.yml`
    """
    for folder in sorted(save_dir.glob("version_*"), key=_number, reverse=True):
        known = read_json(folder / "run.json")
        with suppress(OSError):
            alike = _asked(known.get("arguments", {})) == _asked(arguments) and known.get("inputs") == inputs
            if alike and (folder / "config.yml").read_text(encoding="utf-8") == settings:
                return folder
    return None


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("version_")
    return int(digits) if digits.isdigit() else -1


def _asked(arguments: dict[str, Any]) -> dict[str, Any]:
    """What of the arguments makes a run this one, as JSON gives it back."""
    return {name: value for name, value in json.loads(json.dumps(arguments)).items() if name not in OF_THE_MACHINE}


def is_finished(folder: Path) -> bool:
    """Whether all models of a run are trained to the end; an epoch's line in `metrics.jsonl` comes before its checkpoint."""
    run = read_json(folder / "run.json")
    cards = [read_json(folder / name / "model.json").get("training", {}) for name in run.get("half_sets", [])]
    return bool(cards) and all(card.get("finished") == run.get("arguments", {}).get("n_epochs") for card in cards)


def input_files(arguments: Any) -> dict[str, list[int]]:
    """Stamps of the files that a run starts from, by path; one that is missing is told of where it is read."""
    paths = [Path(path) for path in (*arguments.particles_star_fname, arguments.map_fname_for_simulated_pretraining) if path]
    if arguments.finetune_checkpoint_dir:
        paths += sorted(Path(arguments.finetune_checkpoint_dir).glob("*/model.safetensors"))
    return stamps(map(str, paths))


def new_folder(save_dir: Path, settings: str, description: dict[str, Any]) -> Path:
    """Make the first `version_N` that is not there yet, with its `config.yml` and `run.json` in it from the start."""
    save_dir.mkdir(parents=True, exist_ok=True)
    temporary = save_dir / f".version.{socket.gethostname()}.{os.getpid()}"
    temporary.mkdir(exist_ok=True)
    describe(temporary, settings, description)
    number = 0
    while True:
        folder = save_dir / f"version_{number}"
        with suppress(OSError):  # it is there and has something in it
            temporary.rename(folder)
            return folder
        if not folder.exists():
            raise UserError(f"{folder} cannot be made. Is the disk full, or the folder not yours?")
        number += 1


def describe(folder: Path, settings: str, description: dict[str, Any]) -> None:
    """Write `config.yml` and `run.json`."""
    write_text(folder / "config.yml", settings)
    write_text(folder / "run.json", json.dumps(description, indent=2) + "\n")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else trains in a run's folder within the `with` block. Raises UserError where somebody does."""
    with open(folder / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"{folder}: this run is being trained just now, by {lock.read() or 'another process'}. Wait for it, or stop it."
            ) from None
        except OSError as error:
            logger.debug("%s: the disk knows no locks (%s)", folder, error)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files, anywhere in a run's folder, of a process that was killed while it wrote."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
