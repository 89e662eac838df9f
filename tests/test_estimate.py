"""The memory of a step, and the batch size that is found from it."""

import json

import pytest
import torch
from runs import TrainingProcess, folder_of_particles, run_words
from settings import SMALL

from cryopares_core.config.merge import load_config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.training import estimate
from cryopares_core.training.estimate import largest_batch, step_memory

CPU = torch.device("cpu")


def network(size):
    return PoseNetwork(load_config(None, SMALL).models.image2sphere, "C1", size)


def test_memory_grows_by_as_much_for_each_picture():
    small = network(32)
    memory = step_memory(small, 32, CPU, "32")
    # What a step of 24 keeps is what two steps of 2 and 6 foretell.
    kept = estimate._kept_bytes(lambda: estimate._step(small, 32, CPU, False, 24), CPU)
    weights = sum(4 * value.numel() for value in small.parameters())
    assert memory.of(24) - estimate.COPIES_OF_WEIGHTS * weights == pytest.approx(kept, rel=0.05)
    assert all(value.grad is None for value in small.parameters())


def test_larger_pictures_and_wider_numbers_need_more():
    per_picture = [step_memory(network(size), size, CPU, "32").per_picture for size in (32, 64, 96)]
    assert per_picture == sorted(per_picture) and per_picture[2] > 1.5 * per_picture[0]
    assert step_memory(network(64), 64, CPU, "bf16").per_picture < per_picture[1]


def test_the_largest_batch_fills_what_is_free(monkeypatch):
    memory = step_memory(network(32), 32, CPU, "32")
    for count in (0, 1, 100):
        monkeypatch.setattr(estimate, "_free_bytes", lambda _, n=count: memory.of(n) + memory.per_picture / 2)
        assert largest_batch(network(32), 32, CPU, "32") == count
    monkeypatch.setattr(estimate, "_free_bytes", lambda _: memory.fixed / 2)
    assert largest_batch(network(32), 32, CPU, "32") == 0


def test_a_run_finds_its_batch_size_and_keeps_it(tmp_path):
    words = run_words(folder_of_particles(tmp_path))(tmp_path / "out", "--n_epochs", "1", "--split_halfs", "False")
    words[words.index("--batch_size") + 1] = "auto"
    run = TrainingProcess(words, tmp_path / "log")
    assert run.ends() == 0, run.told()
    # 300 particles with two copies each: as many as leave twenty steps an epoch.
    assert "Batches of 30 pictures. The learning rate of" in run.told()
    assert json.loads((tmp_path / "out/version_0/run.json").read_text())["batch_size"] == 30
    more = TrainingProcess(["--continue_checkpoint_dir", str(tmp_path / "out/version_0"), "--n_epochs", "2"], tmp_path / "more")
    assert more.ends() == 0, more.told()
    assert "Batches of" not in more.told()
