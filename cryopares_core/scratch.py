"""Folders of prepared pictures on a scratch disk: what each is, who uses it, and how it goes."""

import fcntl
import json
import logging
import os
import shutil
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List

from cryopares_core.errors import UserError
from cryopares_core.files import write_text
from cryopares_core.progress import size_text

logger = logging.getLogger(__name__)
PREFIX = "cryopares_prepared_"
ABOUT, LOCK, PICTURES, PARTIAL, JOURNAL = "about.json", "lock", "pictures.f16", "pictures.partial", "journal"


@dataclass(frozen=True)
class Entry:
    """A folder of prepared pictures."""

    folder: Path

    @property
    def complete(self) -> bool:
        """Whether all pictures are prepared."""
        return (self.folder / PICTURES).is_file()

    @property
    def n_bytes(self) -> int:
        """What it takes on the disk."""
        total = 0
        for path in self.folder.glob("*"):
            with suppress(OSError):  # it may go just now
                total += 512 * path.stat().st_blocks
        return total

    @property
    def used(self) -> float:
        """When it was used last, seconds since 1970."""
        with suppress(OSError):
            return (self.folder / LOCK).stat().st_mtime
        return 0.0

    def about(self) -> Dict[str, Any]:
        """What it was made of; empty where that cannot be read."""
        with suppress(OSError, ValueError):
            return dict(json.loads((self.folder / ABOUT).read_text(encoding="utf-8")))
        return {}

    def describe(self, about: Dict[str, Any]) -> None:
        """Write down what it is made of."""
        write_text(self.folder / ABOUT, json.dumps(about, indent=2) + "\n")

    def remove(self) -> bool:
        """Delete it; False, and nothing done, while a process uses it."""
        with suppress(OSError), open(self.folder / LOCK, "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()


def entries(scratch_dir: Path) -> List[Entry]:
    """All of a scratch folder, those used last first."""
    return sorted((Entry(path) for path in scratch_dir.glob(f"{PREFIX}*") if path.is_dir()), key=lambda one: -one.used)


def entry(scratch_dir: Path, key: str) -> Entry:
    """The entry of a key; its folder is made. Raises UserError where that cannot be."""
    folder = scratch_dir / f"{PREFIX}{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--scratch_dir={scratch_dir}: {error.strerror}. Give a folder that you may write to.") from error
    return Entry(folder)


class Hold:
    """An entry that this process uses: alone, to prepare it, or with others, to read it. Let go when the process ends."""

    def __init__(self, entry: Entry):
        """Wait until it is prepared, then hold it with others, or until nobody prepares it, then hold it alone."""
        self.file = open(entry.folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 -- as long as this object
        if not self._try(fcntl.LOCK_SH if entry.complete else fcntl.LOCK_EX):
            logger.info("%s: another process prepares these pictures; waiting for it", entry.folder)
        while not self._try(fcntl.LOCK_SH if entry.complete else fcntl.LOCK_EX):
            time.sleep(0.2)
        os.utime(entry.folder / LOCK)

    def share(self) -> None:
        """From now on others may read it too."""
        self._try(fcntl.LOCK_SH)

    def release(self) -> None:
        """This process is through with it."""
        self.file.close()

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            logger.debug("the scratch disk knows no locks (%s)", error)
        return True


def check_disk(folder: Path, needed: int, there: int) -> None:
    """Raise UserError where a file of `needed` bytes, of which some are there already, does not fit on the disk of a folder."""
    free = shutil.disk_usage(folder).free + there
    if needed > free:
        old = sum(one.n_bytes for one in entries(folder.parent) if one.folder != folder)
        mend = f" cryopares_cache clean {folder.parent} frees {size_text(old)} of earlier ones." if old > 1e8 else ""
        raise UserError(
            f"{folder.parent}: the prepared pictures need {size_text(needed)}, and {size_text(free)} are free on this disk "
            f"(on {socket.gethostname()}). Make room, or give another folder with --scratch_dir.{mend}"
        )


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """A disk that is full or fails while pictures are written there ends the run with what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}. What is prepared is kept: make room, then give the same command again, "
            "or choose another disk with --scratch_dir."
        ) from error
