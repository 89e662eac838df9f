"""Real Slurm jobs of two processes, with the scripts of docs/cluster.md: warned, put back or cancelled, and finished."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import starfile
from runs import folder_of_particles, metrics, run_words
from slurm import PROGRAMS, cluster, documented_script
from untrained import infer, some_particles, untrained_run
from untrained import words as infer_words

pytestmark = pytest.mark.timeout(600)
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def slurm():
    """Runs a command of Slurm and returns what it says."""
    pytest.importorskip("psutil")
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)} (tools/install_test_tools.sh installs them on Debian and Ubuntu)")
    with cluster() as variables:
        environment = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

        def run(*command):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY)
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield run


def wait_until(condition, told, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)


def test_a_job_that_is_warned_is_put_back_and_finishes(slurm, tmp_path):
    words = run_words(folder_of_particles(tmp_path))
    more = ("--n_epochs", "8", "--split_halfs", "False")
    script = documented_script(tmp_path, "train", words(tmp_path / "run", *more))
    job = slurm("sbatch", "--parsable", str(script)).strip()
    log, half = tmp_path / f"train-{job}.log", tmp_path / "run" / "version_0" / "allParticles"

    def told():
        return (log.read_text() if log.exists() else "") + slurm("scontrol", "show", "job", job)

    wait_until((half / "checkpoints" / "last.ckpt").exists, told)
    slurm("scancel", "--signal=TERM", job)  # what --signal=TERM@300 sends before the time is over
    wait_until(lambda: {"Restarts=1", "JobState=PENDING"} <= set(slurm("scontrol", "show", "job", job).split()), told)
    assert "2 processes train together" in told() and "The same command goes on from here" in told()
    # Slurm waits two minutes before it starts a job again. At once is too early: the node still refuses the job that it ended.
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    wait_until(lambda: "JobState=COMPLETED" in slurm("scontrol", "show", "job", job), told)
    assert "goes on in epoch" in told() and told().count("Finished.") == 1
    assert [line["epoch"] for line in metrics(half.parent, "allParticles")] == list(range(1, 9))


def test_poses_by_jobs_of_which_one_is_cancelled(slurm, tmp_path):
    particles, run = some_particles(tmp_path / "particles"), untrained_run(tmp_path / "run")
    more, out = ("--shard_size", 2, "--refine", "--reconstruct"), tmp_path / "found"
    expected = infer(particles, run, tmp_path / "here", *more)
    script = documented_script(tmp_path, "infer", infer_words(particles, run, out, *more))
    cancelled, job = (slurm("sbatch", "--parsable", "--exclusive", str(script)).strip() for _ in "ab")

    def told():
        return "".join(log.read_text() for log in tmp_path.glob("infer-*.log")) + slurm("scontrol", "show", "job", job)

    wait_until(lambda: list(out.glob("predictions/*.npz")), told)
    slurm("scancel", cancelled)
    wait_until(lambda: "JobState=COMPLETED" in slurm("scontrol", "show", "job", job), told)
    assert "Traceback" not in told() and told().count("Finished: 60 of 60 particles") == 1
    assert starfile.read(out / "particles.star")["particles"].equals(expected)
