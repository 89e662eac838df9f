"""Every protocol in a real project: by the tests that users have, and what becomes of its model when the project moves."""

import shutil
import sys

import pytest
from installation import QUICK, Installation, project_with_particles

pytestmark = pytest.mark.timeout(500)
AUTO = QUICK | {"batch_size": 0}  # as many pictures as the memory holds
TRAIN = f"""
project = open_project("trained")
run = project.newProtocol(ProtCryoparesTrain, n_epochs=1, split_halfs=False, **{AUTO!r})
link(run.inputParticles, project.getRuns()[0], "outputParticles")
project.launchProtocol(run, wait=True)
project.exportProtocols(project.getRuns(), "workflow.json")
"""
LOOK = """
project = open_project(sys.argv[1])
run = next(run for run in project.getRuns() if run.getClassName() == "ProtCryoparesTrain")
model = run.outputModel
print(model, all(os.path.isfile(path) and not os.path.isabs(path) for path in model.getFiles()))
print([parent.getClassName() for parent in project.getSourceParents(model)])
"""
LOAD = """
project = Manager().createProject("elsewhere")
os.chdir(project.path)
project.loadProtocols(sys.argv[1])
run = next(run for run in project.getRuns() if run.getClassName() == "ProtCryoparesTrain")
print(run.n_epochs.get(), run.lmax.get(), run.inputParticles.getExtended(), run.useGpu.get(), run.getStatus())
"""


def test_the_tests_that_users_have(scipion: Installation) -> None:
    done = scipion.run(sys.executable, "-O", "-m", "scipion", "tests", "cryopares_plugin.tests.test_protocols", timeout=480)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "run 8 tests" in said and "FAILED" not in said, said


def test_a_model_survives_reopening_copying_and_export(scipion: Installation) -> None:
    project = project_with_particles(scipion, "trained")
    scipion.python(TRAIN)
    shutil.copytree(project, project.with_name("copied"), symlinks=True)
    for name in ("trained", "copied"):
        said = scipion.python(LOOK, name)
        assert "CryoparesModel (C1, 16 px, 20.00 Å/px, allParticles, error" in said and ") True" in said, said
        assert "['ProtImportParticles']" in said, said
    assert scipion.python(LOAD, str(project / "workflow.json")).strip().endswith("1 2 outputParticles False saved")
