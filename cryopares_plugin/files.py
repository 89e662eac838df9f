"""Files that have their names only when all of them is on disk."""

import os
from contextlib import contextmanager
from typing import Any, Iterator


@contextmanager
def appearing(path: str, mode: str = "w") -> Iterator[Any]:
    """A file to be written, under another name until the `with` block has ended well. `mode` is "w" or "wb"."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
