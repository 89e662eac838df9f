"""Runs a training so that it can save before it ends: `python keeper.py PROTOCOL_LOCK TRAINING_LOCK MODULE ARGUMENT...`

Scipion's Stop kills a protocol and all that descends from it, at once. A training that is kept does not descend from it. A guard,
a process of its own, starts it and looks whether the protocol's process is still there, by a lock that this one holds on a file.
When it is gone, or lets the lock go, the guard tells the training to end: it saves the step it is at and ends.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import IO, Callable, Iterator, List, Sequence

LOOK_EVERY_S = 0.5
LONGEST_SAVING_S = 300.0


# ---- for the protocol


@contextmanager
def protocol_lives(path: str) -> Iterator[Callable[[], None]]:
    """Says so, by a lock on a file, within the `with` block. Calling what it gives lets the training end before that."""
    with open(path, "w", encoding="utf-8") as file:
        _lock(file, fcntl.LOCK_EX)
        yield file.close


def wait_for_earlier(path: str, tell: Callable[[str], None]) -> None:
    """Come back when the training that holds this lock, where there is one, has ended."""
    with open(path, "a", encoding="utf-8") as file:
        if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            tell("The training of an earlier start is about to end: waiting for it.")
            _lock(file, fcntl.LOCK_EX)


# ---- the keeper and its guard


def main(protocol_lock: str, training_lock: str, module: str, *arguments: str) -> int:
    """Start the guard, wait for the training's end, and return its exit code (128 and the signal's number, as shells have it)."""
    # The training ends by its own rules. It is the guard who tells it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(training_lock, "a", encoding="utf-8") as lock:
        _lock(lock, fcntl.LOCK_EX)  # the guard has it too: it is free when both have ended
        reading, writing = os.pipe()
        _start_apart(lambda: _guard(protocol_lock, [sys.executable, "-m", module, *arguments], writing))
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:
            code = int(pipe.read() or 1)
    return code if code >= 0 else 128 - code


def _start_apart(body: Callable[[], None]) -> None:
    """Run a function in a process that is no descendant of this one."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if not os.fork():
            body()
    finally:
        os._exit(0)


def _guard(protocol_lock: str, command: Sequence[str], writing: int) -> None:
    """Run the command to its end, which comes soon after the protocol's, and write its exit code into a pipe."""
    told: List[int] = []
    # Not ignored, but handled: so the training does not inherit it.
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(protocol_lock, "a", encoding="utf-8") as lock:
        training = subprocess.Popen(command, start_new_session=True)
        while training.poll() is None:
            if _lock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB, otherwise=False):
                _end(training, told)
            time.sleep(LOOK_EVERY_S)
    with suppress(OSError):  # nobody may be left who reads it
        os.write(writing, str(training.returncode).encode())


def _end(training: "subprocess.Popen[bytes]", told: List[int]) -> None:
    """Tell the training to end, once: a second signal ends it before it has saved. A batch system tells all processes of a job."""
    time.sleep(LOOK_EVERY_S)
    if not told:
        training.terminate()
    try:
        training.wait(LONGEST_SAVING_S)
    except subprocess.TimeoutExpired:
        os.killpg(training.pid, signal.SIGKILL)
        training.wait()


def _lock(file: IO[str], kind: int, otherwise: bool = True) -> bool:
    """Whether a lock could be had; `otherwise` where the disk knows none."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
