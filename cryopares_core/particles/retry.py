"""Reads that fail for a moment, as those over a network do, are tried again."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

# The server is away or slow, a handle is stale: all of it may be over in a moment. A file that is not there is not waited for.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EHOSTDOWN, errno.EREMOTEIO}
WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
TRIES_SHORT = 3  # a file that was cut off stays so


class ShortRead(OSError):
    """A file gave fewer bytes than it had before."""


def patiently(read: Callable[[], T], path: str) -> T:
    """What `read` returns; errors that may pass are waited for, a minute in all, and told. Raises the last OSError."""
    for tries, wait in enumerate(WAITS_S):
        try:
            return read()
        except OSError as error:
            passes = tries < TRIES_SHORT if isinstance(error, ShortRead) else error.errno in PASSING
            if not passes:
                raise
            logger.warning("%s: %s; trying again in %g s", path, error.strerror or error, wait)
            time.sleep(wait)
    return read()
