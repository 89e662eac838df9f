"""The process that lets a training save before it ends, without Scipion: a stand-in for the training notes what it hears."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KEEPER = Path(__file__).parents[1] / "cryopares_plugin" / "keeper.py"
# Ends with 75 a moment after the first SIGTERM, as a training does, or with its argument at once.
STAND_IN = """
import os, signal, sys, time
if len(sys.argv) > 1:
    number = int(sys.argv[1])
    os.kill(os.getpid(), -number) if number < 0 else sys.exit(number)
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
print("pid", os.getpid(), os.getppid(), os.getsid(0), flush=True)
while not heard:
    time.sleep(0.05)
time.sleep(1.5)
print("heard", len(heard), flush=True)
sys.exit(75)
"""


@pytest.fixture(scope="module")
def keeper():
    """The module, which needs nothing of the plugin."""
    spec = importlib.util.spec_from_file_location("keeper", KEEPER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tmp_path):
    """Starts the stand-in through the keeper; its words are in `said`."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    started = []

    def begin(*arguments):
        command = [sys.executable, KEEPER, tmp_path / "protocol", tmp_path / "training", "stand_in", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        with open(tmp_path / "said", "w") as said:
            started.append(subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
    for word in said(tmp_path)[:1]:
        _kill(int(word.split()[1]))


def said(folder):
    path = folder / "said"
    return path.read_text().splitlines() if path.exists() else []


def _kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(0, 0), (3, 3), (-9, 137)])
def test_the_exit_code_is_passed_on(keeper, start, tmp_path, number, code):
    with keeper.protocol_lives(tmp_path / "protocol"):
        assert start(str(number)).wait(20) == code


def test_a_training_outlives_its_killed_protocol_until_it_has_saved(keeper, start, tmp_path):
    """The keeper is killed at once with all that descends from the protocol; the training hears of it once, and saves."""
    with keeper.protocol_lives(tmp_path / "protocol"):
        kept = start()
        wait_for(lambda: said(tmp_path))
        _, pid, parent, session = said(tmp_path)[0].split()
        assert int(parent) != kept.pid and int(session) != os.getsid(0)
        time.sleep(1.0)
        os.kill(int(pid), 0)  # it is left alone as long as the protocol lives
        kept.kill()
    told = []
    keeper.wait_for_earlier(tmp_path / "training", told.append)
    assert said(tmp_path)[1] == "heard 1" and "waiting for it" in told[0]
    keeper.wait_for_earlier(tmp_path / "training", told.append)
    assert len(told) == 1


def test_a_protocol_that_lets_go_gets_the_exit_code(keeper, start, tmp_path):
    with keeper.protocol_lives(tmp_path / "protocol") as let_end:
        kept = start()
        wait_for(lambda: said(tmp_path))
        let_end()
        assert kept.wait(20) == 75
    assert said(tmp_path)[1] == "heard 1"


def test_a_batch_system_that_tells_all_processes_is_not_repeated(keeper, start, tmp_path):
    with keeper.protocol_lives(tmp_path / "protocol") as let_end:
        kept = start()
        wait_for(lambda: said(tmp_path))
        _, training, guard, _ = said(tmp_path)[0].split()
        for pid in (int(training), int(guard), kept.pid):
            os.kill(pid, signal.SIGTERM)
        let_end()
        assert kept.wait(20) == 75
    assert said(tmp_path)[1] == "heard 1"


def test_one_that_does_not_end_is_killed(keeper, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "LONGEST_SAVING_S", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    training = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True)
    training.stdout.readline()
    keeper._end(training, [])
    assert training.returncode == -signal.SIGKILL
