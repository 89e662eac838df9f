"""The prepared store: the same pictures from memory and from a file, and a file that nothing can spoil."""

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import TrainingProcess, folder_of_particles, metrics, run_words

from cryopares_core import scratch
from cryopares_core.commands.cache import main as cache
from cryopares_core.errors import UserError
from cryopares_core.particles import retry, stacks, store
from cryopares_core.particles.batches import EpochLoader, PreparedDataset
from cryopares_core.particles.order import WINDOW, epoch_order
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.store import open_store, store_key

CPU = torch.device("cpu")
SETTINGS = PreprocessSettings(sampling_rate_angs=12.0, image_size_px=26)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_particles(tmp_path_factory.mktemp("particles"))


@pytest.fixture(scope="module")
def table(folder):
    return read_particles([str(folder / "particles.star")])[0]


def opened(table, scratch_dir, settings=SETTINGS, progress=lambda *_: None):
    return open_store(table, settings, CPU, progress, scratch_dir, scratch_dir)


def only_entry(scratch_dir):
    (found,) = scratch.entries(scratch_dir)
    return found


def test_a_file_gives_the_pictures_that_memory_gives(table, tmp_path):
    order = np.random.default_rng(0).permutation(len(table))  # not that of the stacks
    mixed = table.subset(order)
    expected = prepare_particles(mixed, SETTINGS)
    assert torch.equal(opened(mixed, tmp_path).images, expected)
    assert only_entry(tmp_path).complete
    assert not (only_entry(tmp_path).folder / scratch.JOURNAL).exists()
    steps = []
    again = opened(mixed, tmp_path, progress=lambda *done: steps.append(done))
    assert torch.equal(again.images, expected) and not steps  # nothing is prepared twice


def test_what_fits_stays_in_memory_and_the_rest_goes_to_a_file(table, tmp_path, monkeypatch):
    progress = lambda *_: None  # noqa: E731
    small = open_store(table, SETTINGS, CPU, progress, None, tmp_path)
    assert small.file is None and not list(tmp_path.iterdir())
    monkeypatch.setattr(store, "free_memory_bytes", lambda: 1e5)
    large = open_store(table, SETTINGS, CPU, progress, None, tmp_path)
    assert large.file is not None and torch.equal(large.images, small.images)


def test_the_key_is_what_pictures_are_made_of(table, folder, tmp_path):
    key = store_key(table, SETTINGS)
    assert store_key(table, replace(SETTINGS, ctf_mode="none")) != key
    assert store_key(table, replace(SETTINGS, image_size_px=24)) != key
    assert store_key(replace(table, shifts_angs=table.shifts_angs + 1), SETTINGS) != key
    assert store_key(table.subset(np.arange(299)), SETTINGS) != key
    defocus = replace(table.ctf, defocus_u_angs=table.ctf.defocus_u_angs + 100)
    assert store_key(replace(table, ctf=defocus), SETTINGS) != key
    # Poses and half sets change nothing in a picture.
    turned = replace(table, eulers_deg=table.eulers_deg[::-1], half_set=3 - table.half_set)
    assert store_key(turned, SETTINGS) == key
    path = table.stack_paths[0]
    before = os.stat(path).st_mtime_ns
    os.utime(path, ns=(before, before + 1))
    assert store_key(table, SETTINGS) != key
    os.utime(path, ns=(before, before))


def _prepare_slowly(star, scratch_dir):
    original = store._write_pictures

    def slow(*words):
        original(*words)
        time.sleep(0.05)

    store._write_pictures, store.BATCH, store.SECONDS_BETWEEN_SYNCS = slow, 10, 0
    opened(read_particles([star])[0], scratch_dir)


def test_killed_again_and_again_the_preparation_goes_on(table, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BATCH", 10)
    fork = multiprocessing.get_context("fork")
    finished, kills = [0], 0
    while finished[-1] < 18:
        process = fork.Process(target=_prepare_slowly, args=(str(folder / "particles.star"), tmp_path))
        process.start()
        wanted, deadline = finished[-1] + 3, time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            found = scratch.entries(tmp_path)
            if found and len(store._read_journal(found[0].folder / scratch.JOURNAL)) >= wanted:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        finished.append(len(store._read_journal(only_entry(tmp_path).folder / scratch.JOURNAL)))
        assert finished[-1] > finished[-2]  # what was noted stays
    assert kills >= 3 and not only_entry(tmp_path).complete
    steps = []
    images = opened(table, tmp_path, progress=lambda *done: steps.append(done)).images
    assert len(steps) == 30 - finished[-1]
    assert torch.equal(images, prepare_particles(table, SETTINGS))


def test_two_processes_prepare_once(folder, table, tmp_path):
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=_prepare_slowly, args=(str(folder / "particles.star"), tmp_path)) for _ in range(2)]
    started = time.monotonic()
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert time.monotonic() - started < 2 * 30 * 0.05 + 5
    assert torch.equal(opened(table, tmp_path).images, prepare_particles(table, SETTINGS))


def test_broken_pictures_are_told_each_time(folder, tmp_path):
    copied = tmp_path / "particles"
    shutil.copytree(folder, copied)
    table = read_particles([str(copied / "particles.star")])[0]
    with open(table.stack_paths[0], "r+b") as file:
        file.seek(1024 + 7 * 32 * 32 * 4)
        file.write(np.full(32, np.nan, np.float32).tobytes())
    table = read_particles([str(copied / "particles.star")])[0]
    for _ in range(2):
        with pytest.raises(UserError, match=r"000008@.*NaN"):
            opened(table, tmp_path / "scratch")
    assert not only_entry(tmp_path / "scratch").complete


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB; the pictures need 400."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_is_told_before(table, small_disk):
    steps = []
    with pytest.raises(UserError, match=r"need under 1 MB.*--scratch_dir"):
        opened(table, small_disk, progress=lambda *done: steps.append(done))
    assert not steps and not list(small_disk.rglob("pictures*"))


def test_a_disk_that_fills_up_keeps_what_is_prepared(table, small_disk, monkeypatch):
    """Others write to it after the check; the file takes its place at once, so nothing is lost halfway."""
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1e12, 0, 1e12))
    with pytest.raises(UserError, match=r"No space left.*same command"):
        opened(table, small_disk)
    assert not only_entry(small_disk).complete


def failing(original, errors):
    """A system call that fails first."""
    left = list(errors)

    def call(*words):
        if left:
            error = left.pop(0)
            if error is None:
                return b""
            raise OSError(error, os.strerror(error))
        return original(*words)

    return call


def test_reads_that_fail_for_a_moment_are_tried_again(table, monkeypatch, caplog):
    expected = stacks.read_images(table, np.arange(20))
    monkeypatch.setattr(retry, "WAITS_S", (0.01,) * 6)
    monkeypatch.setattr(stacks.os, "pread", failing(os.pread, [errno.EIO, errno.ESTALE, None, errno.ETIMEDOUT]))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(stacks.read_images(table, np.arange(20)), expected)
    assert caplog.text.count("trying again") == 4 and table.stack_paths[0] in caplog.text


@pytest.mark.parametrize("faults", [[errno.EIO] * 9, [None] * 9, [errno.EACCES]])
def test_reads_that_keep_failing_name_the_file(table, monkeypatch, faults):
    monkeypatch.setattr(retry, "WAITS_S", (0.01,) * 6)
    monkeypatch.setattr(stacks.os, "pread", failing(os.pread, faults))
    with pytest.raises(UserError, match=r"particles_001\.mrcs"):
        stacks.read_images(table, np.arange(20))


def test_large_epochs_are_read_in_blocks():
    n, block = 5 * WINDOW + 77, 40
    order = epoch_order(n, 3, 1, block)
    assert sorted(order) == list(range(n))
    assert not np.array_equal(order, epoch_order(n, 3, 2, block))
    for first in range(0, n - WINDOW, WINDOW):
        window = order[first : first + WINDOW]
        blocks = np.unique(window // block)
        assert len(blocks) < 1.02 * WINDOW / block + 3  # whole blocks
        assert np.ptp(blocks) > 0.9 * n / block  # from everywhere
        assert np.abs(np.diff(window)).mean() > 0.2 * n  # well mixed
    assert np.array_equal(epoch_order(WINDOW, 3, 1, block), epoch_order(WINDOW, 3, 1))


def test_what_comes_is_announced_once(table, tmp_path, monkeypatch):
    monkeypatch.setattr("cryopares_core.particles.batches.WINDOW", 64)
    images, announced = opened(table, tmp_path), []
    data = PreparedDataset(images.images, torch.zeros(300, 3), np.arange(300), lambda ids: announced.append(ids))
    seen = [batch.ids for batch in EpochLoader(data, 16, 1).epoch(0)]
    assert sorted(np.concatenate(announced)) == sorted(torch.cat(seen).tolist())
    assert torch.equal(torch.cat(seen[:8]), torch.from_numpy(announced[0]))
    images.will_need(np.arange(300))
    images.will_need(np.array([], dtype=int))


def test_trainings_from_memory_and_from_a_file_are_the_same(folder, tmp_path):
    words = run_words(folder)
    for name, more in (("memory", ()), ("file", ("--scratch_dir", str(tmp_path / "scratch")))):
        run = TrainingProcess(words(tmp_path / name, "--n_epochs", "2", "--split_halfs", "False", *more), tmp_path / f"{name}.log")
        assert run.ends() == 0, run.told()
    folders = [tmp_path / name / "version_0" for name in ("memory", "file")]
    models = [(path / "allParticles" / "model.safetensors").read_bytes() for path in folders]
    assert models[0] == models[1] and metrics(folders[0], "allParticles") == metrics(folders[1], "allParticles")
    again = TrainingProcess(words(tmp_path / "next", "--n_epochs", "1", *more), tmp_path / "next.log")
    assert again.ends() == 0 and "Prepared pictures are there" in again.told()


def test_the_cache_is_listed_and_cleaned(table, tmp_path, capsys):
    in_use = opened(table, tmp_path)
    other = opened(table, tmp_path, replace(SETTINGS, ctf_mode="none"))
    other.hold.release()
    assert cache(["list", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.count("300 particles, 26 px of 12 Å") == 2
    assert cache(["clean", str(tmp_path)]) == 2  # nobody is there to ask
    assert cache(["clean", str(tmp_path), "--yes", "--days", "1"]) == 0 and len(scratch.entries(tmp_path)) == 2
    assert cache(["clean", str(tmp_path), "--yes"]) == 0
    assert "in use just now" in capsys.readouterr().out
    assert only_entry(tmp_path).folder.name.endswith(store_key(table, SETTINGS))
    in_use.hold.release()
    assert cache(["clean", str(tmp_path), "--yes"]) == 0 and not scratch.entries(tmp_path)
    assert cache(["list", str(tmp_path)]) == 0 and "no prepared pictures" in capsys.readouterr().out
    assert cache(["list", str(tmp_path / "nowhere")]) == 2
