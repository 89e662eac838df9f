"""Writing files so that a half-written one never stands under its final name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`; when the block ends well the file is synced and takes its final name.

    >>> with atomic_path("x.txt") as temporary:
    ...     temporary.write_text("all or nothing")
    """
    final = Path(path)
    temporary = temporary_name(final)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, final)
    except OSError as error:
        if error.filename is None:  # writing, as to a full disk, does not know whose bytes they are
            error.filename = str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(final: Path) -> Path:
    """This process's own, beside a file; processes of several machines may have one number."""
    return final.with_name(f".{final.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def stamp(path: str | os.PathLike[str]) -> list[int]:
    """Size and time of change (ns) of a file; of one that is missing, nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def stamps(paths: Iterable[str]) -> dict[str, list[int]]:
    """Those of the files that there are, by name."""
    return {path: found for path in paths if (found := stamp(path))}


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
