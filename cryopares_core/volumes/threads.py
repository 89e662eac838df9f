"""Threads of our own instead of those within each operation.

For many small operations, an operation's threads mostly wait for each other: on a machine that does other work too, that has made
two threads ten times slower than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def one_thread_an_operation() -> Iterator[int]:
    """Operations use one thread each meanwhile; gives how many they had before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def in_threads(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> list[Any]:
    """What `work` gives for each item, in order, by so many threads; raises the first error."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(work, items))
