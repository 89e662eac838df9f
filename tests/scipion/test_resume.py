"""A training that is cut off, and goes on from its last checkpoint."""

import sys

import pytest
from installation import PREAMBLE, Installation, project_with_particles

pytestmark = pytest.mark.timeout(200)
EPOCHS = 4
BEGIN = f"""
import psutil, signal
project = open_project("resumed")
run = new_training(project, n_epochs={EPOCHS})
project.launchProtocol(run)
wait_for_checkpoint(run)
"""
# A new session: the one that began is gone.
GO_ON = """
project = open_project("resumed")
run = [run for run in project.getRuns(checkPids=True) if run.getClassName() == "ProtCryoparesTrain"][-1]
star = os.path.join(run._getExtraPath(), "input_particles.star")
written = os.path.getmtime(star)
print("before:", run.getStatus(), len(epochs(run)[0]), getattr(run, "outputModel", None))
print("files:", all(map(os.path.isfile, run.outputModel.getFiles())) if hasattr(run, "outputModel") else None)
project.launchProtocol(run)
wait_until_ended(run)
print("after:", epochs(run), os.path.getmtime(star) == written, "Going on" in open(run.getStdoutLog()).read())
"""


@pytest.fixture(scope="module")
def project(scipion: Installation) -> Installation:
    """Scipion, with a project of particles."""
    project_with_particles(scipion, "resumed")
    return scipion


def goes_on(scipion: Installation, status: str) -> str:
    """Finish what was cut off; no epoch is lost or done twice, and the particles are not written again."""
    said = scipion.python(GO_ON)
    assert f"before: {status}" in said, said
    assert "ended: finished CryoparesModel" in said, said
    assert f"after: {[list(range(1, EPOCHS + 1))] * 2} True True" in said, said
    return said


def test_power_cut(project: Installation) -> None:
    """All processes are killed at once: the one that launched, the protocol's, the core's."""
    code = PREAMBLE + BEGIN + "os.killpg(0, signal.SIGKILL)"
    done = project.run("setsid", "--wait", sys.executable, "-c", code)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    goes_on(project, "failed")


def test_stop_ends_all_processes_at_once_and_keeps_the_model(project: Installation) -> None:
    code = """if True:
        wait_for(lambda: status(run) and hasattr(run, "outputModel"))
        processes = psutil.Process(run.getPid()).children(recursive=True)
        started = time.monotonic()
        project.stopProtocol(run)
        wait_for(lambda: all(one.status() == psutil.STATUS_ZOMBIE for one in processes if one.is_running()))
        print(len(processes), time.monotonic() - started < 2, run.getStatus())"""
    said = project.python(BEGIN + code).split()
    assert int(said[-3]) >= 2 and said[-2:] == ["True", "aborted"], said
    said = goes_on(project, "aborted")
    assert "files: True" in said, said
