"""A training that is cut off or stopped, and goes on to the model that it would have had."""

import sys
from pathlib import Path

import pytest
from installation import PREAMBLE, Installation, project_with_particles

pytestmark = pytest.mark.timeout(200)
EPOCHS = 12
BEGIN = f"""
import psutil, signal
project = open_project("resumed")
run = new_training(project, n_epochs={EPOCHS})
run.split_halfs.set(False)
project.launchProtocol(run)
wait_for(lambda: os.path.isfile(os.path.join(run.getRunDir(), "allParticles", "checkpoints", "last.ckpt")))
status(run)  # it knows its own process now

def training():
    "The processes that train, and those that started them: some are no descendants of the protocol's."
    own = os.path.abspath(run.getWorkingDir())
    return [one for one in psutil.process_iter() if own in environment(one).get("CRYOPARES_ERROR_FILE", "")]

def environment(process):
    try:
        return process.environ()
    except psutil.Error:
        return {{}}

def wait_for_end(processes):
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes))
"""
# A new session: the one that began is gone.
GO_ON = """
from pwem.objects import SetOfParticles
project = open_project("resumed")
run = [run for run in project.getRuns(checkPids=True) if run.getClassName() == "ProtCryoparesTrain"][-1]
star = os.path.join(run._getExtraPath(), "input_particles.star")
written = os.path.getmtime(star)
print("before:", run.getStatus(), getattr(run, "outputModel", None), run.summary(), run.getErrorMessage())
run.learning_rate.set(0.5)
print("changed:", run.validate())
run.learning_rate.set(0.001)
others = SetOfParticles(filename=run.inputParticles.get().getFileName())
others.loadAllProperties()
others.setObjId(99999)
run.inputParticles.set(others)
run.inputParticles.setExtended("")
print("others:", run.validate())
link(run.inputParticles, project.getRuns()[0], "outputParticles")
print("as before:", run.validate())
run.scratch_dir.set("$RUN_FOLDER/scratch")
os.environ["RUN_FOLDER"] = os.path.abspath("Tmp")
run.gpuList.set("1,2")
project.launchProtocol(run)
wait_until_ended(run)
print("after:", epochs(run), os.path.getmtime(star) == written, "Going on" in open(run.getStdoutLog()).read())
print("scratch:", len(os.listdir("Tmp/scratch")))
print("run folder:", os.path.abspath(run.getRunDir()))
"""
UNDISTURBED = f"""
project = open_project("resumed")
run = new_training(project, n_epochs={EPOCHS})
run.split_halfs.set(False)
project.launchProtocol(run, wait=True)
print(os.path.abspath(run.getRunDir()))
"""


@pytest.fixture(scope="module")
def weights(scipion: Installation) -> bytes:
    """The model of a run that nobody disturbed, in a project of particles."""
    project_with_particles(scipion, "resumed")
    return model(scipion.python(UNDISTURBED).strip())


def model(run_dir: str) -> bytes:
    return (Path(run_dir) / "allParticles" / "model.safetensors").read_bytes()


def goes_on(scipion: Installation, weights: bytes, status: str) -> None:
    """Finish what was cut off, on other parts of the machine: no epoch is lost or done twice, the particles are not written again,
    and the model is that of an undisturbed run.
    """
    said = scipion.python(GO_ON)
    assert f"before: {status}" in said and "Continue (run mode) goes on" in said, said
    assert "others: ['This run was begun with other settings: Aligned particles (another object)." in said, said
    assert "as before: []" in said, said
    assert "changed: ['This run was begun with other settings: learning_rate: 0.5 instead of 0.001." in said, said
    assert "ended: finished CryoparesModel" in said, said
    assert f"after: {[list(range(1, EPOCHS + 1))]} True True" in said and "scratch: 1" in said, said
    assert model(said.strip().splitlines()[-1].partition("run folder: ")[2]) == weights


def test_power_cut(scipion: Installation, weights: bytes) -> None:
    """All processes are killed at once: the one that launched, the protocol's, the guard's, the core's."""
    cut = "[one.kill() for one in training()]; os.killpg(0, signal.SIGKILL)"
    done = scipion.run("setsid", "--wait", sys.executable, "-c", PREAMBLE + BEGIN + cut)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    goes_on(scipion, weights, "failed")


def test_stop_ends_the_protocol_at_once_and_loses_no_more_than_a_step(scipion: Installation, weights: bytes) -> None:
    code = """if True:
        processes, kept = psutil.Process(run.getPid()).children(recursive=True), training()
        begun, started = time.time(), time.monotonic()
        project.stopProtocol(run)
        wait_for(lambda: all(one.status() == psutil.STATUS_ZOMBIE for one in processes if one.is_running()))
        print("stopped:", len(processes) >= 2, time.monotonic() - started < 2, run.getStatus())
        wait_for_end(kept)
        saved = os.path.getmtime(os.path.join(run.getRunDir(), "allParticles", "checkpoints", "last.ckpt"))
        print("saved:", saved > begun, len(kept) >= 3)"""
    said = scipion.python(BEGIN + code)
    assert "stopped: True True aborted" in said and "saved: True True" in said, said
    goes_on(scipion, weights, "aborted")


def test_a_warning_to_end_makes_it_fail_with_how_to_go_on(scipion: Installation, weights: bytes) -> None:
    """As batch systems send it before they kill, here to one process of the job alone."""
    said = scipion.python(BEGIN + "os.kill(run.getPid(), signal.SIGTERM); wait_until_ended(run); print(run.summary())")
    assert "ended: failed" in said and "has saved the step it was at. Continue (run mode) goes on from there." in said, said
    assert "It was stopped before its last epoch" in said, said
