"""The work in shards: each is claimed by one process, written down whole, and not done again by a run that goes on."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path, write_text

logger = logging.getLogger(__name__)
ABOUT = "about.json"
DIGITS = "[0-9]" * 6  # of a shard's name
WAIT_S = 0.5
LOOK_EVERY_S = 2.0
T = TypeVar("T")


class Shards:
    """One kind of work on all particles.

    Parameters
    ----------
    folder : has a file for each shard that is done
    order : `(n,)` the particles, in the order in which they are worked on
    size : particles of a shard
    """

    def __init__(self, folder: Path, order: np.ndarray, size: int):
        self.folder, self.order, self.size = folder, order, size
        self.count = -(-len(order) // size)
        self._looked, self._n_done = -np.inf, 0

    def begin(self, about: dict[str, Any]) -> None:
        """Make the folder for work on which all of `about` has an effect.

        Raises
        ------
        UserError : it holds other work
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path, wanted = self.folder / ABOUT, json.loads(json.dumps({**about, "shard_size": self.size, "particles": len(self.order)}))
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            write_text(path, json.dumps(wanted, indent=1) + "\n")
            return
        except ValueError:
            known = {}
        differ = sorted(name for name in wanted.keys() | known.keys() if wanted.get(name) != known.get(name))
        if differ:
            raise UserError(
                f"--results_dir={self.folder.parent} holds the results of another command: {', '.join(differ)} "
                f"{'differs' if len(differ) == 1 else 'differ'}. Give another folder, or remove {self.folder}."
            )

    def particles(self, number: int) -> np.ndarray:
        """Those of a shard, in the order of `order`."""
        return self.order[number * self.size : (number + 1) * self.size]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def missing(self) -> list[int]:
        """Shards that are not done."""
        return [number for number in range(self.count) if not self.path(number).exists()]

    def n_done(self) -> int:
        """Particles that all processes have finished; looked at every few seconds."""
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._n_done = len(self.order) - sum(len(self.particles(number)) for number in self.missing())
        return self._n_done

    def mine(self, rank: int, wait: bool) -> Iterator[int]:
        """One shard after another that nobody else works on, until none is left.

        Parameters
        ----------
        rank : where this process starts, so that processes seldom want the same one
        wait : until those of other processes are done as well; those of a process that dies are taken over
        """
        while missing := self.missing():
            worked = False
            for number in missing[rank % len(missing) :] + missing[: rank % len(missing)]:
                with self._claimed(number) as is_mine:
                    if is_mine and not self.path(number).exists():
                        worked = True
                        yield number
            if not worked:
                if not wait:
                    return
                time.sleep(WAIT_S)

    @contextmanager
    def _claimed(self, number: int) -> Iterator[bool]:
        """Whether this process has a shard for itself within the `with` block. A disk without locks gives it to all who ask."""
        with open(self.folder / f".{number:06d}.lock", "a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                logger.debug("%s: the disk knows no locks (%s)", self.folder, error)
            yield True

    def write(self, number: int, found: Any) -> None:
        """Write a shard, all or nothing.

        Parameters
        ----------
        found : a dataclass of arrays with one row for each of the shard's particles, in their order
        """
        with atomic_path(self.path(number)) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **{field.name: getattr(found, field.name) for field in fields(found)})

    def read(self, kind: type[T]) -> T:
        """All particles in table order, once no shard is missing. Raises UserError where a file is damaged."""
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        parts = [_read(self.path(number), names) for number in range(self.count)]
        order = np.argsort(self.order)
        return kind(**{name: np.concatenate([part[name] for part in parts])[order] for name in names})

    def tidy(self) -> None:
        """Remove locks; nobody works here any more."""
        _remove(self.folder.glob(".*.lock"))


def remove_shards(folder: Path) -> None:
    """Remove all that such work leaves, the record last, and the folder where nothing else is in it."""
    _remove([*folder.glob(".*.lock"), *folder.glob(".*.tmp"), *folder.glob(f"{DIGITS}.npz"), folder / ABOUT])
    with suppress(OSError):
        folder.rmdir()


def is_free(folder: Path) -> bool:
    """Whether a folder is not there, is empty or holds such work, so that nothing else is lost."""
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and ((folder / ABOUT).is_file() or not any(folder.iterdir()))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of one file. Raises UserError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}). Remove it and give the same command again.") from error
