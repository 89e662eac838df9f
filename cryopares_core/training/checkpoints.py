"""Checkpoints: where a training stands, in files that are whole or absent."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path

FORMAT = 1


@contextmanager
def told_in_one_sentence(path: Path) -> Iterator[None]:
    """A file of a half set's folder that cannot be written ends the run with what to do."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        raise UserError(
            f"{path} could not be written ({' '.join(str(error).split())[:120]}). Is the disk full? Make room, "
            f"then give the same command again, or --continue_checkpoint_dir {_run_folder(path)}; what was saved before is kept."
        ) from error


def _run_folder(path: Path) -> Path:
    """The version_N above a file of one of its stages."""
    return next((folder for folder in path.parents if (folder / "run.json").is_file()), path.parent)


class Checkpoints:
    """`checkpoints/last.ckpt` and `best.ckpt` of a stage's folder."""

    def __init__(self, stage_folder: Path):
        self.folder = stage_folder / "checkpoints"
        self.last, self.best = self.folder / "last.ckpt", self.folder / "best.ckpt"

    def save(self, state: dict[str, Any], best: bool) -> None:
        """Keep a state as the last one, and as that of the best epoch too. Raises UserError when the disk is full."""
        with told_in_one_sentence(self.last):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.last) as temporary:
                torch.save({"format": FORMAT, **state}, temporary)
            if best:
                self._keep_as_best()

    def _keep_as_best(self) -> None:
        """A second name for the same file; a copy where the disk knows no such thing."""
        temporary = self.best.with_name(".best.ckpt.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.last, temporary)
        except OSError:
            shutil.copyfile(self.last, temporary)
        os.replace(temporary, self.best)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last state, or None where there is none. Reading never runs code from the file.

        Raises
        ------
        UserError : the file is damaged, or is of another version
        """
        if not self.last.is_file():
            return None
        try:
            state = torch.load(self.last, map_location=device, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{self.last}: damaged, or made by an older version ({' '.join(str(error).split())[:80]}). Copy {self.best.name} "
                "over it to go on from the best epoch, or remove it to start this half set again."
            ) from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise UserError(f"{self.last}: made by another version of CryoPARES. Fine-tune from its model instead, or train anew.")
        return state
