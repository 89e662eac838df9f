"""What all commands share: messages on the terminal, errors without tracebacks, exit codes."""

import errno
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Any, Callable

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.errors import UserError

# A program that starts our commands, such as the plugin, names a file here and finds the message of an error in it.
ERROR_FILE = "CRYOPARES_ERROR_FILE"
INTERRUPTED = 130
TERMINATED = 143
NO_MEMORY = (
    "The memory is too small for this. End other programs that use it, look at less detail or fewer pictures at once "
    "(--resolution_angs, --resolution_limit_angs, --batch_size, where the command has them), or take a machine with more memory."
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REQUEUE = 75  # stopped by SIGTERM too, but the same command goes on from there: a batch system may start it again


def run(body: Callable[[], None], terminated: int = TERMINATED) -> int:
    """Run a command's body and return its exit code.

    0 done; 2 the input or settings are wrong (told in plain words); 130 stopped with Ctrl-C; `terminated` stopped by SIGTERM.
    """
    _send_log_to_terminal()
    keep_freed_memory()
    logging.raiseExceptions = False  # a reader that went away (`| head`) is no reason for a traceback
    stopped_by = {"code": INTERRUPTED}

    def on_terminate(*_: Any) -> None:
        stopped_by["code"] = terminated
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_terminate)
    try:
        body()
    except UserError as error:
        return _tell(error)
    except KeyboardInterrupt:
        goes_on = " The same command goes on from here." if terminated == REQUEUE else ""
        sys.stderr.write(f"Stopped before the end.{goes_on}\n")
        return stopped_by["code"]
    except ModuleNotFoundError as error:
        return _tell(_missing_package(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        return _tell(UserError(NO_MEMORY))
    except OSError as error:
        remedy = " Free some space, and give the same command again." if error.errno in NO_SPACE else ""
        return _tell(UserError(f"{error.filename or 'The system'}: {error.strerror or error}.{remedy}"))
    return 0


def _tell(error: UserError) -> int:
    if not error.problems:  # another process of this run tells of them
        return error.exit_code
    heading = "Error: " if len(error.problems) == 1 else f"{len(error.problems)} errors:\n  - "
    text = heading + "\n  - ".join(error.problems) + "\n"
    sys.stderr.write(text)
    if ERROR_FILE in os.environ:
        with suppress(OSError), open(os.environ[ERROR_FILE], "w", encoding="utf-8") as file:
            file.write(text)
    return error.exit_code


def _is_of_memory(error: Exception) -> bool:
    """Whether memory was wanted that is not there. PyTorch, which is not imported for this, has errors of its own for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


def _missing_package(error: ModuleNotFoundError) -> UserError:
    name = (error.name or "").split(".")[0]
    if name.startswith("cryopares"):
        raise error
    return UserError(f"The Python package {name} is missing here. Install the core: pip install 'scipion-em-cryopares[core]'.")


def _send_log_to_terminal() -> None:
    """Our own messages as plain lines, warnings marked; other packages only when something is wrong."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter())
    ours = logging.getLogger("cryopares_core")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"Warning: {text}" if record.levelno >= logging.WARNING else text
