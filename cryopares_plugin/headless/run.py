"""Running the protocols of a loaded workflow one after another, each as Scipion's window would."""

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, Optional, Set

from pyworkflow.protocol import MODE_RESUME, Protocol

from cryopares_core.errors import UserError
from cryopares_plugin.headless.progress import Progress, describe

POLL = 1.0  # seconds between looks at a running protocol
QUEUE_POLL = 5.0  # the same for one in a queue, which costs a call of the queue's own program

FAILED = "Protocol failed: "  # what Scipion puts before some messages


class RunFailed(Exception):
    """A protocol failed; the text says which, why, and where its log is."""


class Stopped(Exception):
    """A signal asked to stop, and nothing runs any more."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


class StopRequest:
    """Remembers the first signal that asks to stop; one that was ignored from the start, as under nohup, stays ignored."""

    def __init__(self) -> None:
        self._number: Optional[int] = None
        self._asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._ask)

    def _ask(self, number: int, _: Any) -> None:
        self._number = self._number or number
        self._asked.set()

    def check(self, seconds: float = 0.0) -> None:
        """Waits so long, and raises Stopped at once when a signal comes."""
        self._asked.wait(seconds)
        if self._number:
            raise Stopped(self._number)


def in_order(runs: Dict[str, Any]) -> List[str]:
    """The ids in the workflow, each after those whose outputs it takes or for which it was told to wait."""
    by_run = {run.getObjId(): key for key, run in runs.items()}
    left = {key: {by_run[i] for i in _parents(run) if i in by_run} for key, run in runs.items()}
    order: List[str] = []
    while left:
        ready = [key for key, parents in left.items() if not parents & set(left)]
        if not ready:
            raise UserError(
                f"These protocols wait for each other in a circle: {', '.join(runs[key].getObjLabel() for key in left)}."
            )
        order += ready
        left = {key: parents for key, parents in left.items() if key not in ready}
    return order


def _parents(run: Any) -> Set[int]:
    """Ids of the runs that this one takes something from or waits for."""
    targets = [pointer.getObjValue() for _, pointer in run.iterInputAttributes()]
    ids = {
        target.getObjId() if isinstance(target, Protocol) else target.getObjParentId() for target in targets if target is not None
    }
    return ids | {int(i) for i in run.getPrerequisites()}


def check_ready(project: Any, ids: List[int]) -> None:
    """What Scipion itself finds wrong with those runs that are still to run and whose inputs are all there."""
    done = {run.getObjId() for run in project.getRuns() if run.isFinished()}
    runs = [_fresh(project, i) for i in ids if i not in done]
    problems = [text for run in runs if not _parents(run) & (set(ids) - done) for text in _validation(run)]
    if problems:
        raise UserError(problems)


def _validation(run: Any) -> List[str]:
    if run.isActive():
        return []
    return [f"{run.getObjLabel()} cannot run: {_one_sentence(text)}" for text in run.validate()]


def _one_sentence(text: str) -> str:
    if "Traceback" in text:  # a plugin's own check broke down; Scipion hands on all of it
        text = text.strip().splitlines()[-1]
    return " ".join(str(text).replace("*", "").split()).rstrip(".") + "."


def _fresh(project: Any, run_id: int) -> Any:
    """The run as it stands in the project now, its inputs with what has been made since."""
    return next(run for run in project.getRuns() if run.getObjId() == run_id)


def run_all(project: Any, ids: List[int], progress: Progress, stop: StopRequest) -> None:
    """Runs those that are not finished, in this order; raises RunFailed, UserError or Stopped."""
    for place, run_id in enumerate(ids, start=1):
        stop.check()
        run = _fresh(project, run_id)
        head = f"[{place}/{len(ids)}] {run.getObjLabel()}"
        if run.isFinished():
            progress.tell(f"{head}: finished earlier")
            continue
        problems = _validation(run)
        if problems:
            raise UserError(problems)
        _run_one(project, run, head, progress, stop)


def _run_one(project: Any, run: Any, head: str, progress: Progress, stop: StopRequest) -> None:
    try:
        if run.isActive():
            progress.tell(f"{head}: is running already; waiting for it")
            _watch(project, run, progress, stop)
        if not run.isFinished():
            progress.tell(f"{head}: {'goes on' if run.isFailed() or run.isAborted() else 'starts'}")
            _launch(project, run)
            _watch(project, run, progress, stop)
    except Stopped:
        _stop(project, run)
        progress.tell(f"{head}: stopped; the same command goes on from here")
        raise
    if not run.isFinished():
        raise RunFailed(_failure(project, run))
    progress.tell(f"{head}: finished in {str(run.getElapsedTime()).split('.')[0]}")
    for name, output in run.iterOutputAttributes():
        progress.tell(f"    {name}: {output}")


def _launch(project: Any, run: Any) -> None:
    """Starts the run. What it starts must not hear the terminal's Ctrl-C: half of it would end before it can be stopped whole."""
    run.runMode.set(MODE_RESUME)
    with _held_back({signal.SIGINT, signal.SIGHUP}), _output_to(_launch_log(project)):
        project.launchProtocol(run)


def _launch_log(project: Any) -> str:
    """Where a protocol writes before it has found its own log."""
    return os.path.join(project.path, project.getLogPath("cryopares_workflow.log"))


@contextmanager
def _held_back(numbers: Set[signal.Signals]) -> Iterator[None]:
    """Signals reach neither this process, until the end of the block, nor ever the processes started in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _output_to(path: str) -> Iterator[None]:
    """What processes started in the block write to the terminal goes into the file instead."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for number, copy in zip((1, 2), kept):
            os.dup2(copy, number)
            os.close(copy)


def _watch(project: Any, run: Any, progress: Progress, stop: StopRequest) -> None:
    """Returns when the run is over, whichever way."""
    while run.isActive():
        progress.update(describe(run))
        stop.check(QUEUE_POLL if run.useQueueForProtocol() else POLL)
        _bury_the_dead()
        project._updateProtocol(run)


def _bury_the_dead() -> None:
    """Takes note of ended children: until then Scipion would hold a killed protocol for a running one."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _stop(project: Any, run: Any) -> None:
    with suppress(Exception):  # where its process is gone already, Scipion marks the run as aborted all the same
        project.stopProtocol(run)
    _bury_the_dead()


def _failure(project: Any, run: Any) -> str:
    logs = [run.getStderrLog(), run.getStdoutLog(), _launch_log(project)]
    log = next((path for path in logs if os.path.exists(path) and os.path.getsize(path)), "")
    where = f" Log: {os.path.join(project.path, log)}" if log else ""
    said = run.getErrorMessage()
    reason = (said[len(FAILED) :] if said.startswith(FAILED) else said) or f"it ended as '{run.getStatus()}'"
    if run.isInteractive() and not run.isFailed():
        reason = "it waits for somebody to work in its window, so it cannot run without a screen"
    return f"{run.getObjLabel()} failed: {_one_sentence(reason)}{where}"
