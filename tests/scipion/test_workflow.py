"""Saved workflows without a screen, with a real Scipion: the command, what it says, being stopped and going on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from installation import ROOT, Installation

psutil = pytest.importorskip("psutil")

TEMPLATES = ROOT / "cryopares_plugin" / "templates"
TINY = ["lmax=2", "f_out=4", "sphere_fdim=8", "so3outputgrid_hp_order=1", "s2conv_hp_order=1", "i2sprojector_hp_order=2"]
TINY += ["batch_size=8", "num_augmented_copies_per_batch=1", "useGpu=no", "split_halfs=no", "numberOfThreads=1"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installation(scipion: Installation) -> dict[str, str]:
    """The environment variables of a Scipion that knows the plugin; a user's shell does not name its domain."""
    return {name: value for name, value in scipion.variables.items() if name != "SCIPION_DOMAIN"}


@pytest.fixture(scope="module")
def star(installation: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A STAR file of forty simulated particles."""
    folder = tmp_path_factory.mktemp("particles")
    command = [sys.executable, "-m", "cryopares_simulate", "--phantom", "--n_particles", "40", "--out_dir", str(folder / "set")]
    command += ["--image_size_px", "32", "--sampling_rate", "6"]
    subprocess.run(command, env=installation, cwd=folder, check=True, capture_output=True)
    return next((folder / "set").glob("*.star"))


@pytest.fixture
def workflow(star: Path, tmp_path: Path) -> Path:
    """Import and a short training, as saved from the window; in the file the training stands first."""
    train = {"object.className": "ProtCryoparesTrain", "object.id": "9", "object.label": "my training", "n_epochs": 1}
    read = {"object.className": "ProtImportParticles", "object.id": "2", "object.label": "CryoPARES - particles", "importFrom": 3}
    read |= {"starFile": str(star), "filesPath": None, "samplingRate": 6.0}
    return write(tmp_path / "workflow.json", [train | {"inputParticles": "2.outputParticles"}, read])


@pytest.fixture
def endless(star: Path, tmp_path: Path) -> Path:
    """An import that waits a minute for more pictures to come."""
    read = {"object.className": "ProtImportParticles", "object.id": "2", "object.label": "import", "importFrom": 0}
    read |= {"filesPath": str(next(star.parent.rglob("*.mrcs"))), "samplingRate": 6.0}
    return write(tmp_path / "endless.json", [read | {"dataStreaming": True, "timeout": "60s", "fileTimeout": "2s"}])


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project's name for each test."""
    return request.node.name.replace("[", "_").rstrip("]")


@pytest.fixture
def run(installation: dict[str, str], tmp_path: Path) -> Run:
    """Runs the command to its end."""

    def run_command(*words: object, start: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *(start or ["-m", "cryopares_workflow"]), *map(str, words)]
        return subprocess.run(command, env=installation, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run_command


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def tiny(*more: str) -> list[str]:
    return [f"mytraining.{setting}" for setting in (*TINY, *more)]


def processes(project: str) -> list[Any]:
    """Those that run protocols of the project, and what they started."""
    found = [one for one in psutil.process_iter(["cmdline"]) if f"projects/{project}" in " ".join(one.info["cmdline"] or [])]
    return found + [child for one in found for child in children(one)]


def children(process: Any) -> list[Any]:
    """Its processes of any depth; none where it has ended meanwhile."""
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def started(installation: dict[str, str], tmp_path: Path, project: str) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the command in a session of its own, and leaves nothing of it behind."""

    def start(*words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cryopares_workflow", *map(str, words)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        # Tests in the background of a shell have Ctrl-C ignored, and would hand that on.
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(command, env=installation, cwd=tmp_path, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]

    yield start
    kill(processes(project))


def kill(victims: list[Any]) -> None:
    """All of them, also those that end meanwhile because others did."""
    for one in victims:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_runs_in_the_order_of_the_inputs_and_only_once(
    run: Run, workflow: Path, project: str, installation: dict[str, str]
) -> None:
    first = run(workflow.name, "--project", project, *tiny())
    assert first.returncode == 0, first.stdout + first.stderr
    folder = Path(installation["SCIPION_USER_DATA"]) / "projects" / project
    assert first.stdout.index("particles: finished in") < first.stdout.index("my training: starts")
    assert "outputModel: CryoparesModel" in first.stdout and not first.stderr
    runs = sorted(one.name for one in (folder / "Runs").iterdir())
    again = run(workflow.name, "--project", project, *tiny())
    assert again.returncode == 0 and again.stdout.count("finished earlier") == 2
    assert sorted(one.name for one in (folder / "Runs").iterdir()) == runs
    changed = run(workflow.name, "--project", project, "mytraining.n_epochs=3")
    assert changed.returncode == 2 and "is finished with n_epochs = 1" in changed.stderr


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_goes_on(
    run: Run, started: Callable[..., "subprocess.Popen[str]"], workflow: Path, project: str, installation: dict[str, str]
) -> None:
    words = [workflow.name, "--project", project, *tiny("n_epochs=8")]
    command = started(*words)
    folder = Path(installation["SCIPION_USER_DATA"]) / "projects" / project
    wait_for(lambda: list(folder.rglob("last.ckpt")))
    kill([psutil.Process(command.pid), *processes(project)])
    assert command.wait() == -signal.SIGKILL
    star_time = next(folder.rglob("particles.sqlite")).stat().st_mtime
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "particles: finished earlier" in done.stdout and "my training: goes on" in done.stdout
    assert next(folder.rglob("particles.sqlite")).stat().st_mtime == star_time
    epochs = [json.loads(line)["epoch"] for line in next(folder.rglob("metrics.jsonl")).read_text().splitlines()]
    assert epochs == list(range(1, 9))
    assert "Going on from the last checkpoint" in next(folder.glob("Runs/*Train/logs/run.stdout")).read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_running_protocol(
    run: Run, started: Callable[..., "subprocess.Popen[str]"], endless: Path, project: str, number: signal.Signals
) -> None:
    command = started(endless.name, "--project", project)
    wait_for(lambda: len(processes(project)) > 1)
    time.sleep(2)
    os.killpg(command.pid, number) if number == signal.SIGINT else command.send_signal(number)
    said = command.communicate(timeout=60)[0]
    assert command.returncode == 128 + number, said
    assert "import: stopped" in said and "Traceback" not in said
    assert not processes(project)
    assert "aborted" in run(endless.name, "--project", project, "--list").stdout.splitlines()[0]


def test_a_command_that_was_killed_alone_is_picked_up(
    started: Callable[..., "subprocess.Popen[str]"], endless: Path, project: str
) -> None:
    first = started(endless.name, "--project", project)
    wait_for(lambda: len(processes(project)) > 1)
    time.sleep(2)
    first.kill()
    second = started(endless.name, "--project", project)
    wait_for(lambda: "running already" in (second.stdout.readline() if second.stdout else ""), 20)
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 143 and not processes(project)


def test_a_failed_protocol_is_told_in_one_sentence(run: Run, workflow: Path, star: Path, project: str, tmp_path: Path) -> None:
    shutil.copytree(star.parent, tmp_path / "set")
    for stack in (tmp_path / "set").rglob("*.mrcs"):
        stack.write_bytes(b"not a stack")
    done = run(workflow.name, "--project", project, "2.starFile=set/particles.star")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    message, _, log = line.partition(" Log: ")
    assert message.startswith("CryoPARES - particles failed: ") and Path(log).is_file()


def test_all_wrong_settings_at_once_and_nothing_is_made(
    run: Run, workflow: Path, project: str, installation: dict[str, str]
) -> None:
    wrong = {
        "mytrainin.n_epochs=3": "Did you mean my training?",
        "mytraining.n_epoch=3": "Did you mean n_epochs",
        "MyTraining.N_EPOCHS=few": "'few' is not a whole number",
        "mytraining.n_epochs=0": "= 0 is not allowed: expected whole number from 1",
        "9.useGpu=maybe": "neither yes nor no",
        "9.precision=triple": "not a choice; there are",
        "9.inputParticles=9.outputParticles": "has no output",
        "9.inputVolume=mytraining.outputModel": "is a CryoparesModel, and the input takes Volume",
        "particles.starFile=nowhere.star": "there is no /",
        "n_epochs": "is not of the form",
    }
    done = run(workflow.name, "--project", project, *wrong)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(wrong)
    for line, (setting, text) in zip(lines, wrong.items(), strict=True):
        assert line.startswith(f"{setting}: ") and text in line
    assert not (Path(installation["SCIPION_USER_DATA"]) / "projects" / project).exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is not a workflow"),
        ("[{", "line 1, column 3"),
        ('[{"object.className": "ProtX", "object.id": "1", "object.label": "foo - x"}]', "install the plugin scipion-em-foo"),
    ],
)
def test_bad_files(run: Run, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="utf-8")
    done = run("bad.json", "--project", "never")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_what_is_missing_is_told(run: Run, workflow: Path, installation: dict[str, str]) -> None:
    assert "cannot be read" in run("nowhere.json", "--project", "never").stderr
    assert "--project NAME" in run(workflow.name).stderr
    assert "scipion template" in run(TEMPLATES / "train.json.template", "--project", "never").stderr
    assert "has the queues" in run(workflow.name, "--project", "no_queue", "--queue", "nowhere").stderr
    home = installation.pop("SCIPION_HOME")
    try:
        done = run(workflow.name, "--project", "never")
    finally:
        installation["SCIPION_HOME"] = home
    assert done.returncode == 2 and "SCIPION_HOME" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_scipion_has_against_the_inputs(run: Run, workflow: Path, project: str) -> None:
    done = run(workflow.name, "--project", project, "9.inputParticles=")
    assert done.returncode == 2 and "my training cannot run: Aligned particles cannot be EMPTY." in done.stderr


def test_another_input_of_the_same_project(run: Run, workflow: Path, project: str, tmp_path: Path) -> None:
    entries = json.loads(workflow.read_text())
    alone = write(tmp_path / "alone.json", entries[1:])
    assert run(alone.name, "--project", project).returncode == 0
    train = write(tmp_path / "train.json", [entries[0] | {"inputParticles": None, "n_epochs": 1}])
    done = run(train.name, "--project", project, *tiny("inputParticles=particles.outputParticles"))
    assert done.returncode == 0, done.stderr
    again = run(alone.name, "--project", project, "--new")
    assert again.returncode == 0 and "particles: starts" in again.stdout


def test_scipion_run(run: Run, workflow: Path) -> None:
    command = ["cryopares_workflow"] if shutil.which("cryopares_workflow") else ["python", "-m", "cryopares_workflow"]
    done = run(workflow.name, "--list", start=["-m", "scipion", "run", *command])
    assert done.returncode == 0 and "9  my training  (ProtCryoparesTrain)" in done.stdout and "n_epochs = 1" in done.stdout
    wrong = run(workflow.name, "--project", "never", "9.nothing=1", start=["-m", "scipion", "run", *command])
    assert wrong.returncode == 2 and "has no parameter 'nothing'" in wrong.stderr


@pytest.mark.parametrize("name", ["train", "pretrain_finetune"])
def test_templates(run: Run, star: Path, project: str, name: str) -> None:
    text = (TEMPLATES / f"{name}.json.template").read_text(encoding="utf-8")
    fields = [part.split("|") for part in text.split("~")[1::2]]
    given = {"star": star, "map": next(star.parent.parent.rglob("*.mrc"), star), "sampling_rate": 6, "n_epochs": 3}
    values = [f"{alias}={given.get(alias, default)}" for _, default, _, alias in fields]
    done = run(
        "--nogui", "--noschedule", f"project_name={project}", *values, start=["-m", "scipion", "template", f"CryoPARES-{name}"]
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    read = "import os, sys; os.environ['SCIPION_DOMAIN'] = 'pwem';"
    read += "from pyworkflow.project import Manager; import pyworkflow as pw; pw.Config.getDomain().getPlugins();"
    read += "runs = Manager().loadProject(sys.argv[1]).getRuns();"
    read += "print([[r.getClassName(), r.getAttributeValue('n_epochs'), len(list(r.iterInputAttributes()))] for r in runs])"
    loaded = run(project, start=["-c", read])
    last = {"train": "['ProtCryoparesTrain', 3, 1]", "pretrain_finetune": "['ProtCryoparesFinetune', 3, 2]"}[name]
    assert last in loaded.stdout, loaded.stdout + loaded.stderr
