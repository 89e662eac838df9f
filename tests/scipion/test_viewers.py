"""What "Analyze results" and the wizards show, in real windows on a virtual screen, of a network that was really trained."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gui import virtual_screen
from installation import TINY, Installation, project_with_particles, require

HERE = Path(__file__).parent
NAME = "looked_at"
IMPORT_MODEL = """
name, folder = sys.argv[1:]
project = open_project(name)
imported = project.newProtocol(ProtCryoparesImportModel, modelFolder=folder)
project.launchProtocol(imported, wait=True)
sys.exit(not imported.isFinished() and imported.getErrorMessage())
"""
# Starts TensorBoard as the viewer does, says where it is, and waits to be killed.
TENSORBOARD = """
from cryopares_plugin import Plugin
from cryopares_plugin.viewers.tensorboard import TensorBoard
import time
board = TensorBoard(sys.argv[1], Plugin.getProgram("tensorboard.main"))
while not (board.address() or board.problem()):
    time.sleep(0.1)
print(board.address() or board.problem(), board.process.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture(scope="module")
def trained(scipion: Installation) -> Path:
    """The run folder of a tiny network, trained for one epoch."""
    options = "--particles_star_fname simulated/particles.star --particles_dir simulated --symmetry C1 --train_save_dir trained"
    command = [sys.executable, "-m", "cryopares_train", *options.split(), "--n_epochs", "1", "--batch_size", "16"]
    done = scipion.run(*command, "--accelerator", "cpu", "--config", *TINY.split(), "train.val_fraction=0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    return scipion.folder / "trained" / "version_0"


@pytest.fixture(scope="module")
def project(scipion: Installation, trained: Path) -> str:
    """A project with particles, and with the trained model."""
    require("Xvfb", "xdotool", "import")
    project_with_particles(scipion, NAME)
    scipion.python(IMPORT_MODEL, NAME, str(trained))
    return NAME


def drive(scipion: Installation, script: str, project: str, pictures: Path) -> dict:
    """What a scenario saw. The browser is a program that does nothing."""
    with virtual_screen() as display:
        command = [sys.executable, "-O", str(HERE / script), project, str(pictures)]
        done = scipion.run(*command, DISPLAY=display, BROWSER="true")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.timeout(300)
def test_all_that_analyze_results_shows(scipion: Installation, project: str, artefacts: Path) -> None:
    seen = drive(scipion, "drive_viewers.py", project, artefacts / "viewers")
    assert seen["opened"] < 1.0
    for name in (
        "curves",
        "histogram",
        "error_map",
        "defocus",
        "confidence",
        "view_map",
        "gallery",
        "report",
        "tensorboard",
        "model",
    ):
        assert seen[f"{name} before"].endswith((".", "exist.")), name
    assert "first epoch has not ended yet" in seen["curves before"]
    shown = {name: seen[name] for name in ("curves", "error_map", "defocus", "confidence", "gallery", "model")}
    assert shown.pop("gallery") == "PictureWindow" and shown.pop("model") == "ModelWindow"
    assert set(shown.values()) == {"FigureWindow"}
    assert seen["points"] == [1, 2], "the curves follow the run"
    assert seen["tensorboard"] == [200, True]
    assert seen["stopped"]
    assert not seen["torch"]


@pytest.mark.timeout(300)
def test_what_the_wizards_propose(scipion: Installation, project: str, artefacts: Path) -> None:
    seen = drive(scipion, "drive_wizards.py", project, artefacts / "wizards")
    assert seen["without input"] == "MessageDialog"
    assert seen["sampling_rate_angs_for_nnet opened"] < 1.5
    # Pictures of 10 Å/px are never made finer; 200 Å and a quarter more are 25 px, and 30 is the next good box.
    assert (seen["sampling_rate_angs_for_nnet"], seen["image_size_px_for_nnet"]) == (10.0, 30)
    assert "Memory for the 240 prepared pictures: under 1 MB." in seen["notes"]
    assert "10 Å is coarse" in seen["notes"]
    assert 80 < seen["guess"] < 320
    assert seen["mask_radius_angs"] == pytest.approx(80, abs=2), "a quarter of 32 px of 10 Å"
    assert "'Q3' is not a point group" in seen["refused"]
    assert seen["symmetry"] == "D7"
    assert not seen["torch"]


@pytest.mark.timeout(120)
def test_tensorboard_does_not_outlive_a_killed_gui(scipion: Installation, trained: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", "import sys" + TENSORBOARD, str(trained)],
        env=scipion.variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    address, group = started.stdout.readline().split()  # type: ignore[union-attr]
    assert address.startswith("http://127.0.0.1:")
    os.killpg(int(group), 0)
    started.send_signal(signal.SIGKILL)
    started.wait()
    deadline = time.monotonic() + 20
    while _lives(int(group)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(int(group))


@pytest.mark.timeout(120)
def test_tensorboard_that_cannot_start_says_why(scipion: Installation, trained: Path) -> None:
    code = TENSORBOARD.replace("tensorboard.main", "no_such_module").replace("time.sleep(300)", "")
    text = scipion.python(code, str(trained))
    assert "TensorBoard could not be started: " in text
    assert "No module named no_such_module" in text


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
