"""Several processes train one model: as one process would, whoever starts them, and they end together."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import folder_of_particles, metrics, run_words

from cryopares_core.errors import UserError
from cryopares_core.training.distribution import start_processes

REPOSITORY = Path(__file__).parents[1]
TELL_THREADS = (str(Path(__file__).parent / "threads_at_end.py"),)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
EPOCHS = ("--n_epochs", "2", "--split_halfs", "False")
# Two processes draw other augmentations than one does: without them they compute the same numbers in another order.
PLAIN = ("datamanager.augment_train=False", "train.noise_curriculum=False", "train.precision=32")
ONE_STEP = ("--n_epochs", "1", "--split_halfs", "False", "--overfit_batches", "1")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The words of a run on 300 particles, for a folder of its own."""
    return run_words(folder_of_particles(tmp_path_factory.mktemp("particles")))


@pytest.fixture(scope="module")
def one_process(words, tmp_path_factory):
    """The folder of a run in one process, and that of a single step."""
    folders = [tmp_path_factory.mktemp(name) for name in ("run", "step")]
    for folder, length in zip(folders, (EPOCHS, ONE_STEP), strict=True):
        assert "Finished" in output(start(words(folder, *length, config=PLAIN)))
    return [folder / "version_0" for folder in folders]


def start(words, launcher=(sys.executable,), program=("-m", "cryopares_train"), **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.Popen(
        [*launcher, *program, *words],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def output(process, code=0, seconds=180):
    try:
        told, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, told
    return told


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def assert_same_curves(folder, one_process):
    """Sums in another order change the last digits, and each step makes more of that."""
    found, expected = metrics(folder, "allParticles"), metrics(one_process, "allParticles")
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [16, 32]
    for first, second in zip(found, expected, strict=True):
        for name in ("loss", "val_loss", "lr"):
            assert first[name] == pytest.approx(second[name], rel=1e-3), name


def assert_same_step(folder, one_process):
    """Adam's first moments are the gradients, and the norms have counted the pictures of all processes.

    A last digit that differs may turn one of many thousand rectifiers on or off: that is 0.05 % of a gradient.
    """
    paths = [path / "allParticles/checkpoints/last.ckpt" for path in (folder, one_process)]
    first, second = (torch.load(path, weights_only=True) for path in paths)
    assert len(first["optimizer"]["state"]) > 10
    for place, moments in second["optimizer"]["state"].items():
        expected = moments["exp_avg"]
        found = first["optimizer"]["state"][place]["exp_avg"]
        assert float((found - expected).norm()) <= 3e-3 * float(expected.norm()) + 1e-9, place
    for name, expected in second["network"].items():
        if "running" in name:
            torch.testing.assert_close(first["network"][name], expected, rtol=1e-4, atol=1e-5)


def assert_no_connections_left(told):
    """A thread of theirs that Python's end finds at work aborts the process."""
    threads = re.findall("Threads left: (.*)", told)
    assert len(threads) == 2 and "python" in threads[0], told
    assert "gloo" not in " ".join(threads)


def test_two_processes_step_as_one(words, one_process, tmp_path):
    told = output(start(words(tmp_path, "--devices", "2", *ONE_STEP, config=PLAIN), program=TELL_THREADS))
    assert_no_connections_left(told)
    assert told.count("2 processes train together") == 1 and told.count("Finished") == 1  # one of them speaks
    assert_same_step(tmp_path / "version_0", one_process[1])
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]


def processes_of(launcher):
    """The processes below one, youngest generation last."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    return [pid for pid, parent in parents.items() if parent == launcher]


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists(), output(process)


def test_torchrun_whose_process_is_killed_ends_and_one_process_goes_on(words, tmp_path):
    many = words(tmp_path, "--n_epochs", "200", "--split_halfs", "False", config=PLAIN)
    launcher = (*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port()))
    process = start(many, launcher)
    wait_for(tmp_path / "version_0/allParticles/checkpoints/last.ckpt", process)
    os.kill(processes_of(process.pid)[-1], signal.SIGKILL)
    told = output(process, code=1)
    assert "2 processes train together" in told
    done = len(metrics(tmp_path / "version_0", "allParticles"))
    more = ["--continue_checkpoint_dir", str(tmp_path / "version_0"), "--n_epochs", str(done + 2)]
    assert "goes on" in output(start(more))
    assert [line["epoch"] for line in metrics(tmp_path / "version_0", "allParticles")] == list(range(1, done + 3))


def test_what_is_wrong_is_told_once(words, tmp_path):
    wrong = words(tmp_path, "--devices", "2", *EPOCHS)
    star = wrong.index("--particles_star_fname") + 1
    text = Path(wrong[star]).read_text()
    wrong[star] = str(tmp_path / "wrong.star")
    Path(wrong[star]).write_text(text.replace("@Particles/", "@Missing/"))
    told = output(start(wrong, program=TELL_THREADS), code=2)
    assert_no_connections_left(told)
    assert told.count("Error") == 1 and "Traceback" not in told
    assert not list(tmp_path.glob("version_*"))


def test_all_processes_stop_when_one_is_asked_to(words, tmp_path):
    many = words(tmp_path, "--devices", "2", "--n_epochs", "500", "--split_halfs", "False", config=PLAIN)
    process = start(many)
    wait_for(tmp_path / "version_0/allParticles/checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGTERM)
    told = output(process, code=75)
    assert told.count("Stopped before the end.") == 1 and "Traceback" not in told and "terminat" not in told


@pytest.fixture
def two_hosts():
    """Two network namespaces, joined by a cable, with an address each."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    mark = os.getpid() % 10_000
    hosts = [f"cryopares{mark}{letter}" for letter in "ab"]
    commands = [f"ip netns add {host}" for host in hosts]
    commands.append(f"ip link add a{mark} netns {hosts[0]} type veth peer name b{mark} netns {hosts[1]}")
    for host, card, address in zip(hosts, (f"a{mark}", f"b{mark}"), ("10.77.0.1", "10.77.0.2"), strict=True):
        commands.append(f"ip -n {host} addr add {address}/24 dev {card}")
        commands += [f"ip -n {host} link set {name} up" for name in ("lo", card)]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        yield [(host, f"{card}{mark}") for host, card in zip(hosts, "ab", strict=True)]
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


def test_two_hosts_train_as_one(words, one_process, two_hosts, tmp_path):
    started = []
    for rank, (host, card) in enumerate(two_hosts):
        inside = ("ip", "netns", "exec", host, *TORCHRUN)
        addresses = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank))
        addresses += ("--master-addr", "10.77.0.1", "--master-port", "29500")
        launcher = (*inside, *addresses)
        started.append(start(words(tmp_path, *EPOCHS, config=PLAIN), launcher, GLOO_SOCKET_IFNAME=card))
    told = [output(process) for process in started]
    assert "2 processes train together" in told[0] and "Finished" not in told[1]
    assert_same_curves(tmp_path / "version_0", one_process[0])


def test_machines_with_unequal_tasks_are_refused(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    slurm = {"SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": 3, "SLURM_STEP_NUM_NODES": 2, "SLURM_PROCID": 0, "SLURM_LOCALID": 0}
    for name, value in slurm.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="3 processes were started, which are not equally many on each machine"):
        start_processes(torch.device("cpu"), None)
