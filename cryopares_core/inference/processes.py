"""The processes that find poses together. They need not know each other: the work is in shards, and whoever is free takes one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.errors import UserError
from cryopares_core.machine import Place

logger = logging.getLogger(__name__)
Work = Callable[[Any, "Place"], None]


def wanted_here(devices: int | None, accelerator: str) -> int:
    """How many processes this machine is to have, where nobody has started them."""
    on_gpus = accelerator != "cpu" and torch.cuda.is_available()
    return devices or (torch.cuda.device_count() if on_gpus else 1)


@contextmanager
def helpers(count: int, work: Work, arguments: Any) -> Iterator[None]:
    """`count - 1` further processes that run `work(arguments, place)` meanwhile; they end with the `with` block, or with this
    process, however it ends.
    """
    context = multiprocessing.get_context("spawn")
    places = [Place(rank, count, rank, count) for rank in range(1, count)]
    started = [context.Process(target=_help, args=(work, arguments, place), daemon=True) for place in places]
    for process in started:
        process.start()
    try:
        yield
        _tell_of_failures(started)
    finally:
        for process in started:
            process.terminate()


def _tell_of_failures(started: Sequence[BaseProcess]) -> None:
    for number, process in enumerate(started, start=1):
        process.join(timeout=10)
        if process.exitcode not in (0, None):
            logger.warning("Process %d ended early (exit code %s); the others have done its work", number, process.exitcode)


def _help(work: Work, arguments: Any, place: Place) -> None:
    """What a helping process does. The first one tells of the run, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("cryopares_core").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        work(arguments, place)
    except (UserError, MemoryError, torch.OutOfMemoryError):  # the first process finds the same and tells it, or does this work too
        raise SystemExit(UserError.exit_code) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
