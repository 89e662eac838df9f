"""Runs that are killed, stopped, or out of disk, and go on: to the same weights as if nothing had happened."""

import random
import resource
import signal
import time

import pytest
import torch
from runs import TrainingProcess, folder_of_particles, metrics, run_words

EPOCHS = ("--n_epochs", "8")
KILLS = 22


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The words of a run, for a folder of its own."""
    return run_words(folder_of_particles(tmp_path_factory.mktemp("particles")))


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    run = TrainingProcess(command(out_dir, *EPOCHS), out_dir / "log")
    assert run.ends() == 0, run.told()
    return out_dir / "version_0"


def last_state(run_dir, half):
    return torch.load(run_dir / half / "checkpoints" / "last.ckpt", weights_only=True)


def assert_equal_runs(found, expected):
    """Weights to the bit, the optimizer's moments, the models and the curves."""
    for half in ("half1", "half2"):
        first, second = last_state(found, half), last_state(expected, half)
        for name, value in second["network"].items():
            assert torch.equal(first["network"][name], value), (half, name)
        for place, moments in second["optimizer"]["state"].items():
            for name, value in moments.items():
                assert torch.equal(first["optimizer"]["state"][place][name], value), (half, place, name)
        assert (found / half / "model.safetensors").read_bytes() == (expected / half / "model.safetensors").read_bytes()
        assert metrics(found, half) == metrics(expected, half)


def moments_to_kill(draw):
    """What to wait for before each kill, again and again, as functions of the run's folder: some time after the start, checkpoints
    and models half written, steps after a checkpoint, the time between half sets. Each returns a question: is it now?
    """

    def some_time(run_dir):
        moment = time.monotonic() + draw.uniform(0, 2)
        return lambda: time.monotonic() > moment

    def writing(pattern):
        return lambda run_dir: lambda: any(run_dir.glob(pattern))

    def after_checkpoints(run_dir):
        wanted, seen = draw.randint(2, 7), set()

        def is_now():
            seen.update(path.stat().st_mtime_ns for path in run_dir.glob("half*/checkpoints/last.ckpt"))
            return len(seen) > wanted and time.sleep(draw.uniform(0, 0.05)) is None

        return is_now

    def between_half_sets(run_dir):
        return (run_dir / "half2").exists

    checkpoint, model = writing("half*/checkpoints/.last.ckpt.*.tmp"), writing("half*/.model.safetensors.*.tmp")
    while True:
        yield from (checkpoint, after_checkpoints, some_time, checkpoint, model, after_checkpoints, checkpoint, between_half_sets)


def test_killed_again_and_again_it_ends_with_the_same_weights(command, uninterrupted, tmp_path):
    """A run that comes to its end before the next moment to kill it is compared, and another one is begun."""
    moments, kills, out_dir = moments_to_kill(random.Random(5)), 0, tmp_path / "0"
    for number, moment in enumerate(moments):
        out_dir.mkdir(exist_ok=True)
        run = TrainingProcess(command(out_dir, *EPOCHS, config=["train.checkpoint_every_minutes=0.00001"]), out_dir / "log")
        if kills < KILLS and run.when(moment(out_dir / "version_0")):
            run.send(signal.SIGKILL)
            kills += run.ends() == -signal.SIGKILL  # not of one that ended in that very moment
            continue
        assert run.ends() == 0, run.told()
        assert [path.name for path in out_dir.glob("version_*")] == ["version_0"]
        assert not list(out_dir.rglob("*.tmp")) and "Traceback" not in run.told()
        assert_equal_runs(out_dir / "version_0", uninterrupted)
        if kills == KILLS:
            break
        out_dir = tmp_path / str(number + 1)


def test_slurms_warning_costs_nothing(command, uninterrupted, tmp_path):
    """A job that is told to end saves the very step it is at, says that it wants to go on, and does."""
    last = tmp_path / "version_0/half1/checkpoints/last.ckpt"
    for number in range(2):
        run = TrainingProcess(command(tmp_path, *EPOCHS), tmp_path / "log")
        before = last.stat().st_mtime_ns if number else 0
        assert run.when(lambda known=before: last.exists() and last.stat().st_mtime_ns != known), run.told()
        run.send(signal.SIGTERM)
        assert run.ends() == 75, run.told()
    assert "Stopped before the end." in run.told()
    run = TrainingProcess(command(tmp_path, *EPOCHS), tmp_path / "log")
    assert run.ends() == 0, run.told()
    assert_equal_runs(tmp_path / "version_0", uninterrupted)


def test_a_finished_run_says_so_and_changes_nothing(command, uninterrupted):
    folder = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run = TrainingProcess(command(folder.parent, *EPOCHS), folder.parent / "again.log")
    assert run.ends() == 0
    assert "it is finished" in run.told()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_two_processes_never_train_the_same_run(command, tmp_path):
    words = command(tmp_path, "--n_epochs", "300")
    first = TrainingProcess(words, tmp_path / "first")
    assert first.when((tmp_path / "version_0/half1/checkpoints/last.ckpt").exists), first.told()
    second = TrainingProcess(words, tmp_path / "second")
    assert second.ends() == 2
    first.send(signal.SIGKILL)
    assert "is being trained just now" in second.told() and "Traceback" not in second.told()
    assert [path.name for path in tmp_path.glob("version_*")] == ["version_0"]


def test_after_a_full_disk_it_goes_on(command, uninterrupted, tmp_path):
    """Files above 2 MB cannot be written: models can, checkpoints cannot, as on a disk that fills up in between."""
    full = TrainingProcess(command(tmp_path, *EPOCHS), tmp_path / "log", {resource.RLIMIT_FSIZE: 2_000_000})
    assert full.ends() == 2, full.told()
    assert "last.ckpt could not be written" in full.told() and "Traceback" not in full.told()
    assert not list(tmp_path.rglob("*.tmp"))
    run = TrainingProcess(command(tmp_path, *EPOCHS), tmp_path / "log")
    assert run.ends() == 0, run.told()
    assert_equal_runs(tmp_path / "version_0", uninterrupted)


def test_other_words_are_another_run(command, uninterrupted, tmp_path):
    """Where the settings differ nothing is gone on with; where only the machine's do, the run is the same."""
    run = TrainingProcess(command(tmp_path, "--n_epochs", "1"), tmp_path / "log")
    assert run.ends() == 0, run.told()
    same = TrainingProcess(command(tmp_path, "--n_epochs", "1", "--accelerator", "cpu"), tmp_path / "same")
    assert same.ends() == 0 and "it is finished" in same.told()
    other = TrainingProcess(command(tmp_path, "--n_epochs", "1", config=["train.seed=9"]), tmp_path / "other")
    assert other.ends() == 0, other.told()
    assert sorted(path.name for path in tmp_path.glob("version_*")) == ["version_0", "version_1"]


def test_a_diverging_run_keeps_what_was_good(command, tmp_path):
    more = ["train.noise_curriculum=False"]
    run = TrainingProcess(command(tmp_path, "--n_epochs", "1", config=more), tmp_path / "log")
    assert run.ends() == 0, run.told()
    good, folder = last_state(tmp_path / "version_0", "half1"), str(tmp_path / "version_0")
    words = ["--continue_checkpoint_dir", folder, "--n_epochs", "9", "--config"]
    run = TrainingProcess([*words, "train.learning_rate=1"], tmp_path / "log")
    assert run.ends() == 2, run.told()
    told = run.told()
    assert "training has diverged" in told and "train.learning_rate=0.1" in told and "Traceback" not in told
    kept = last_state(tmp_path / "version_0", "half1")
    assert all(torch.equal(kept["network"][name], value) for name, value in good["network"].items())
    run = TrainingProcess([*words, "train.learning_rate=0.001"], tmp_path / "log")
    assert run.ends() == 0, run.told()
    assert [line["epoch"] for line in metrics(tmp_path / "version_0", "half1")] == list(range(1, 10))
    assert metrics(tmp_path / "version_0", "half1")[-1]["loss"] < 9


def test_a_damaged_checkpoint_is_named(command, tmp_path):
    words = command(tmp_path, "--n_epochs", "300")
    run = TrainingProcess(words, tmp_path / "log")
    last = tmp_path / "version_0/half1/checkpoints/last.ckpt"
    assert run.when(last.exists), run.told()
    run.send(signal.SIGKILL)
    run.ends()
    last.write_bytes(last.read_bytes()[:100_000])
    again = TrainingProcess(words, tmp_path / "again")
    assert again.ends() == 2
    assert f"{last}: damaged" in again.told() and "best.ckpt" in again.told() and "Traceback" not in again.told()
