"""The particles of a set that may still be growing, in batches, each with a folder of its own on disk."""

import os
from typing import List

import numpy as np

from cryopares_plugin.files import appearing

IDS, INPUT, RESULTS, PUT_OUT = "ids.npy", "particles.star", "results", "in_outputs"


class Batches:
    """Batches of particles that were begun, numbered from 1. Which particles are in which outlives the process.

    Parameters
    ----------
    folder : the batches' folders stand in it
    """

    def __init__(self, folder: str):
        self.folder = folder

    def numbers(self) -> List[int]:
        """Those that were begun, in order."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted(int(name) for name in names if name.isdigit() and os.path.isfile(os.path.join(self.folder, name, IDS)))

    def unfinished(self) -> List[int]:
        """Those whose particles are not yet in the outputs, in order."""
        return [number for number in self.numbers() if not os.path.exists(self.path(number, PUT_OUT))]

    def finish(self, number: int) -> None:
        """Note that a batch's particles are in the outputs."""
        with open(self.path(number, PUT_OUT), "w", encoding="utf-8"):
            pass

    def path(self, number: int, *names: str) -> str:
        """The folder of a batch, or what is in it."""
        return os.path.join(self.folder, f"{number:04d}", *names)

    def ids(self, number: int) -> np.ndarray:
        """The particles of a batch by rising ids, `(n,)`."""
        ids: np.ndarray = np.load(self.path(number, IDS), allow_pickle=False)
        return ids

    def without(self, ids: np.ndarray) -> np.ndarray:
        """Those of some ids that are in no batch, `(n,)`."""
        known = [self.ids(number) for number in self.numbers()]
        return np.setdiff1d(ids, np.concatenate(known)) if known else ids

    def begin(self, ids: np.ndarray) -> int:
        """A new batch of some particles, by rising ids; returns its number."""
        number = max(self.numbers(), default=0) + 1
        path = self.path(number, IDS)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with appearing(path, "wb") as file:
            np.save(file, ids)
        return number
