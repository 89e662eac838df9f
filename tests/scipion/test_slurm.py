"""Scipion's queue on a real Slurm, set up as docs/cluster.md tells users."""

import re
from collections.abc import Callable, Iterator

import pytest
from installation import ROOT, Installation, project_with_particles, require
from slurm import PROGRAMS, cluster
from untrained import untrained_run

pytestmark = pytest.mark.timeout(200)
Run = Callable[..., str]

QUEUE = """
import subprocess
project = open_project("queued")

def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout

def send(run, gpus, for_jobs):
    run._useQueue.set(True)
    run.setQueueParams(["main", {"TIME": "00:10:00", "MEMORY": "3", "GPUS": gpus, "QUEUE_FOR_JOBS": for_jobs}])
    project.launchProtocol(run)
"""
# A training in the queue, whose fields are as the queue's dialog gives them.
TRAINING = """
run = new_training(project, n_epochs=int(sys.argv[1]))
gpus, for_jobs = sys.argv[2:4]
run.useGpu.set(gpus != "0")
run.split_halfs.set(for_jobs == "N")
send(run, gpus, for_jobs)
"""
INFERENCE = """
model, particles = (next(run for run in project.getRuns() if run.getClassName() == name) for name in sys.argv[1:3])
run = project.newProtocol(ProtCryoparesInfer, useGpu=False, binThreads=1, reconstruct=True)
link(run.inputModel, model, "outputModel")
link(run.inputParticles, particles, "outputParticles")
send(run, "0", sys.argv[3])
"""
INFERENCE_WORDS = ("ProtCryoparesImportModel", "ProtImportParticles")
MODEL = """
imported = project.newProtocol(ProtCryoparesImportModel, modelFolder=sys.argv[1])
project.launchProtocol(imported, wait=True)
"""


@pytest.fixture(scope="module")
def queued(scipion: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs code in Scipion whose `hosts.conf` is that of the documentation."""
    require(*PROGRAMS)
    (hosts,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path_factory.mktemp("slurm") / "hosts.conf"
    path.write_text(hosts, encoding="utf-8")
    project_with_particles(scipion, "queued")
    with cluster() as variables:
        yield lambda code, *arguments: scipion.python(QUEUE + code, *arguments, SCIPION_HOSTS=str(path), **variables)


@pytest.fixture(scope="module")
def queue(queued: Run) -> Run:
    """Runs code behind the start of a training."""
    return lambda code, *arguments: queued(TRAINING + code, *arguments)


@pytest.fixture(scope="module")
def inference(queued: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs code behind the start of an inference."""
    queued(MODEL, str(untrained_run(tmp_path_factory.mktemp("model"))))
    return lambda code, for_jobs: queued(INFERENCE + code, *INFERENCE_WORDS, for_jobs)


def test_a_whole_protocol_is_cancelled_and_goes_on(queue: Run) -> None:
    code = """if True:
        print(slurm("scontrol", "show", "job", str(run.getJobIds()[0])))
        wait_for_checkpoint(run)
        wait_for_model(run)
        project.stopProtocol(run)
        wait_for(lambda: not slurm("squeue", "-h"), 20)
        print("stopped:", run.getStatus(), sum(map(len, epochs(run))) < 60)
        run = project.getProtocol(run.getObjId())
        print("kept:", run.outputModel)
        project.launchProtocol(run)
        wait_until_ended(run)
        log = open(run.getStdoutLog()).read()
        print(epochs(run), "Going on" in log, "CUDA_VISIBLE_DEVICES=" in log)"""
    said = queue(code, "30", "1", "N")
    asked = ("Partition=main", "cpu=1,", "mem=3G", "TimeLimit=00:10:00", "TresPerNode=gres:gpu:1", "JobName=queued ")
    for text in (*asked, "stopped: aborted True", "kept: CryoparesModel", "ended: finished CryoparesModel"):
        assert text in said, said
    assert f"{[list(range(1, 31))] * 2} True False" in said, said


def test_a_job_that_is_told_to_end_saves_and_says_how_to_go_on(queue: Run) -> None:
    """As at its time limit: all of its processes get a signal."""
    code = """if True:
        wait_for_checkpoint(run)
        told = time.time()
        slurm("scancel", "--signal=TERM", "--full", str(run.getJobIds()[0]))
        wait_until_ended(run)
        print("saved:", os.path.getmtime(os.path.join(run.getRunDir(), "half1", "checkpoints", "last.ckpt")) > told)
        wait_for(lambda: not slurm("squeue", "-h"), 20)"""
    said = queue(code, "40", "0", "N")
    assert "ended: failed" in said and "Continue (run mode) goes on from there" in said and "saved: True" in said, said


def test_each_job_of_a_protocol(queue: Run) -> None:
    code = """if True:
        wait_for(lambda: slurm("squeue", "-h"))
        print(status(run), slurm("scontrol", "show", "job", slurm("squeue", "-h", "-o", "%i").strip()))
        wait_until_ended(run)
        print(epochs(run), slurm("squeue", "-h"))"""
    said = queue(code, "1", "0", "Y")
    assert "running JobId=" in said and "TresPerNode" not in said, said
    assert "ended: finished CryoparesModel" in said and "[[1]]" in said, said


def test_each_job_is_cancelled_when_the_protocol_is_stopped(queue: Run) -> None:
    code = """if True:
        last = os.path.join(run.getRunDir(), "allParticles", "checkpoints", "last.ckpt")
        wait_for(lambda: os.path.isfile(last))
        told = time.time()
        project.stopProtocol(run)
        wait_for(lambda: not slurm("squeue", "-h"), 30)
        print("stopped:", run.getStatus())
        print("saved:", os.path.getmtime(last) > told)
        run = project.getProtocol(run.getObjId())
        project.launchProtocol(run)
        wait_until_ended(run)
        print(epochs(run))"""
    said = queue(code, "15", "0", "Y")
    assert "stopped: aborted" in said and "saved: True" in said and "ended: finished" in said, said
    assert str([list(range(1, 16))]) in said, said


def test_a_job_that_fails_is_not_taken_for_finished(queue: Run) -> None:
    code = """if True:
        wait_for(lambda: slurm("squeue", "-h"))
        slurm("scancel", "--user", str(os.getuid()))
        wait_until_ended(run)"""
    said = queue(code, "1", "0", "Y")
    assert "ended: failed" in said and "ended early. Its messages are in" in said, said


def test_an_inference_is_cancelled_and_goes_on(inference: Run) -> None:
    code = """if True:
        wait_for(lambda: os.path.isdir(run._getExtraPath("batches", "0001")))
        project.stopProtocol(run)
        wait_for(lambda: not slurm("squeue", "-h"), 20)
        print("stopped:", run.getStatus())
        run = project.getProtocol(run.getObjId())
        project.launchProtocol(run)
        wait_until_ended(run)
        print("found:", len(run.outputParticles), run.outputVolume.getDim(), "CUDA" in open(run.getStdoutLog()).read())"""
    said = inference(code, "N")
    assert "stopped: aborted" in said and "ended: finished" in said and "found: 240 (32, 32, 32) False" in said, said


def test_each_job_of_an_inference(inference: Run) -> None:
    code = """if True:
        wait_for(lambda: slurm("squeue", "-h"))
        print(status(run), slurm("scontrol", "show", "job", slurm("squeue", "-h", "-o", "%i").strip()))
        wait_until_ended(run)
        print("found:", len(run.outputParticles), run.outputVolume.getDim(), slurm("squeue", "-h"))"""
    said = inference(code, "Y")
    assert "running JobId=" in said and "ended: finished" in said and "found: 240 (32, 32, 32)" in said, said
