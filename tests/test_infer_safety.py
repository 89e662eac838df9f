"""`cryopares_infer` where results and inputs get mixed up: nothing of the user's is lost, and nothing old passes for new."""

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from untrained import ANGLES, FOM, SAMPLING, SIZE, N, add_validation, given, infer, some_particles, summary, untrained_run, words

from cryopares_core.commands.infer import main
from cryopares_core.files import atomic_path
from cryopares_core.inference import steps
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.particles.order import file_order
from cryopares_core.particles.preprocess import Preprocessor, PreprocessSettings
from cryopares_core.particles.stacks import stacks_digest
from cryopares_core.particles.star import read_particles
from cryopares_core.refinement.refiner import Refiner
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.phantom import phantom_map

CPU = torch.device("cpu")
particles = given(some_particles)
run = given(untrained_run)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_particles_are_not_overwritten(run, tmp_path, capsys):
    folder = some_particles(tmp_path / "mine")
    before = content(folder)
    assert main(words(folder, run, folder)) == 2
    assert "would overwrite" in capsys.readouterr().err and content(folder) == before
    (tmp_path / "link.star").symlink_to(folder / "particles.star")
    assert main(words(tmp_path / "link.star", run, folder, "--particles_dir", folder)) == 2
    assert content(folder) == before


@pytest.mark.parametrize("name", ["all.star", "further_poses.star", "particles.star"])
def test_results_of_something_else_are_not_overwritten(particles, run, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert main(words(particles, run, tmp_path)) == 2
    assert f"{name} there is of something else" in capsys.readouterr().err and (tmp_path / name).read_text() == "mine"


def test_a_map_of_something_else_is_not_overwritten(particles, run, tmp_path, capsys):
    (tmp_path / "reconstruction").mkdir()
    (tmp_path / "reconstruction" / "map.mrc").write_text("mine")
    assert main(words(particles, run, tmp_path, "--reconstruct")) == 2
    assert "reconstruction/map.mrc there is of something else" in capsys.readouterr().err


def test_only_its_own_leftovers_go(particles, run, tmp_path):
    left = [tmp_path / ".particles.star.host.7.tmp", tmp_path / "predictions" / ".000000.npz.host.7.tmp"]
    kept = [tmp_path / "else" / ".x.tmp", tmp_path / ".folder.tmp" / "x"]
    for path in left + kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    infer(particles, run, tmp_path)
    assert [path.exists() for path in left + kept] == [False, False, True, True]


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (lambda run: os.utime(run / "half1" / "model.safetensors", ns=(0, 0)), []),
        (lambda run: add_validation(run), []),
        (lambda run: write_map(run / "half2" / "starting_map.mrc", phantom_map(SIZE, SAMPLING, seed=5), SAMPLING), []),
        (lambda run: write_map(run / "given.mrc", phantom_map(SIZE, SAMPLING, seed=5), SAMPLING), ["--refine"]),
    ],
)
def test_with_another_model_or_map_nothing_counts_as_finished(particles, tmp_path, capsys, change, more):
    run = untrained_run(tmp_path)
    write_map(run / "given.mrc", phantom_map(SIZE, SAMPLING), SAMPLING)
    more = [*more, "--reference_fname", run / "given.mrc", "--resolution_angs", 30] if more else []
    infer(particles, run, tmp_path / "out", *more)
    change(run)
    capsys.readouterr()
    main(words(particles, run, tmp_path / "out", *more))
    told = capsys.readouterr()
    assert "results of this very command" not in told.out
    assert "Finished" in told.out or "differs. Give another folder" in told.err


def test_other_pixels_under_the_same_names_are_seen(particles, run, tmp_path, capsys):
    folder = some_particles(tmp_path / "mine")
    table, _ = read_particles(folder / "particles.star")
    digest = stacks_digest(table.stack_paths)
    assert digest == stacks_digest(table.stack_paths)
    infer(folder, run, tmp_path / "out")
    with mrcfile.open(table.stack_paths[1], "r+") as handle:
        handle.data[:] = handle.data[::-1].copy()
    os.utime(table.stack_paths[1], ns=(0, 0))
    assert digest != stacks_digest(table.stack_paths)
    assert main(words(folder, run, tmp_path / "out", "--confidence_threshold", 0.1)) == 2
    assert "the content of the stacks differs" in capsys.readouterr().err


def test_killed_at_another_threshold_it_is_not_finished(particles, run, tmp_path, monkeypatch, capsys):
    everything = infer(particles, run, tmp_path)
    threshold = float(everything[FOM].median())

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps, "write_views", killed)
        assert main(words(particles, run, tmp_path, "--confidence_threshold", threshold)) == 130
    assert len(starfile.read(tmp_path / "particles.star")["particles"]) < N
    assert len(infer(particles, run, tmp_path)) == N and "very command" not in capsys.readouterr().out


def test_no_old_map_stays_where_there_is_none(particles, run, tmp_path):
    infer(particles, run, tmp_path, "--reconstruct")
    assert (tmp_path / "reconstruction" / "map.mrc").exists()
    assert main(words(particles, run, tmp_path, "--reconstruct", "--confidence_threshold", 1)) == 0
    assert not list((tmp_path / "reconstruction").iterdir())
    assert "Fourier shell correlation of the maps" not in (tmp_path / "report.html").read_text()


def test_one_huge_pixel_is_a_broken_picture(run, tmp_path, capsys):
    folder = some_particles(tmp_path / "damaged")
    stack = sorted((folder / "Particles").glob("*.mrcs"))[0]
    with mrcfile.open(stack, "r+") as handle:
        handle.data[3, 5, 5], handle.data[6, 5, 5] = 1e38, -1e20
    more = ["--refine", "--reconstruct", "--resolution_angs", 30]
    kept = infer(folder, run, tmp_path / "out", *more)
    assert len(kept) == N - 2 and np.isfinite(kept[[*ANGLES, FOM]]).all(axis=None) and summary(tmp_path / "out")["broken"] == 2
    assert np.isfinite(mrcfile.read(tmp_path / "out" / "reconstruction" / "map.mrc")).all()


def test_what_is_not_finite_once_prepared_is_broken(particles, monkeypatch):
    table, _ = read_particles(particles / "particles.star")
    usual = Preprocessor.__call__

    def spoiled(self, *given):
        prepared = usual(self, *given)
        prepared[2, 0, 4, 4] = torch.nan
        return prepared

    monkeypatch.setattr(Preprocessor, "__call__", spoiled)
    order = file_order(table)
    batch = next(prepared_stream(table, order, PreprocessSettings(SAMPLING, SIZE), CPU, 10))
    assert batch.broken.tolist() == [order[2]] and len(batch.images) == len(batch.ctf) == len(batch.indices) == 9
    assert batch.images.isfinite().all() and order[2] not in batch.indices


CPU_ALLOCATOR = RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to allocate")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too much"), MemoryError("too much"), CPU_ALLOCATOR])
def test_too_little_memory_is_told_in_words(particles, run, tmp_path, monkeypatch, capsys, error):
    def full(*_):
        raise error

    monkeypatch.setattr(Refiner, "__call__", full)
    assert main(words(particles, run, tmp_path, "--refine", "--resolution_angs", 30)) == 2
    assert "The memory is too small for this" in capsys.readouterr().err


def test_too_coarse_a_resolution_is_told_before_any_work(particles, run, tmp_path, monkeypatch, capsys):
    assert main(words(particles, run, tmp_path / "out", "--refine", "--resolution_angs", 190)) == 2
    assert "--resolution_angs=190 is coarser than the pictures" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_reference_without_a_pixel_size_has_a_remedy_that_there_is(particles, run, tmp_path, capsys):
    write_map(tmp_path / "map.mrc", phantom_map(SIZE, SAMPLING), 0.0)
    assert main(words(particles, run, tmp_path / "out", "--refine", "--reference_fname", tmp_path / "map.mrc")) == 2
    told = capsys.readouterr().err
    assert "no pixel size: write it again with its pixel size" in told and "--sampling_rate" not in told


def test_several_processes_all_have_something_to_do(particles, run, tmp_path):
    infer(particles, run, tmp_path, "--devices", 2)
    assert len(list((tmp_path / "predictions").glob("*.npz"))) == 8
    infer(particles, run, tmp_path, "--confidence_threshold", 0.01, "--shard_size", 3)  # those that were begun stay
    assert len(list((tmp_path / "predictions").glob("*.npz"))) == 8


def test_after_refinement_confidence_is_that_it_could_find_the_pose(particles, run, tmp_path, capsys):
    infer(particles, run, tmp_path, "--refine", "--resolution_angs", 30)
    told = capsys.readouterr().out
    assert "near enough for refinement to find the right pose" in told and "within 5°" not in told.split("Finished")[1]


def test_starts_are_made_shard_by_shard(particles, run, tmp_path, monkeypatch):
    """No process has the pose matrices of all particles in memory."""
    made, usual = [], Refiner.__call__

    def noted(self, indices, starts, *more):
        made.append((len(indices), len(starts)))
        return usual(self, indices, starts, *more)

    monkeypatch.setattr(Refiner, "__call__", noted)
    infer(particles, run, tmp_path, "--refine", "--resolution_angs", 30, "--top_k", 2, "--shard_size", 20)
    assert made == [(20, 20)] * 3


def test_a_full_disk_is_told_with_the_file_and_what_to_do(particles, run, tmp_path):
    """Files above 10 kB cannot be written, as on a full disk: the poses are found, and their STAR file fails."""
    command = [sys.executable, "-m", "cryopares_core.commands.infer", *map(str, words(particles, run, tmp_path))]
    limits = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (10_000, 10_000))
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limits, cwd=Path(__file__).parents[1])
    assert done.returncode == 2 and done.stderr.count("Error") == 1 and "Traceback" not in done.stderr
    assert f"{tmp_path / 'particles.star'}: File too large. Free some space" in done.stderr
    assert not (tmp_path / "particles.star").exists() and not list(tmp_path.rglob("*.tmp"))
    infer(particles, run, tmp_path)  # goes on


def test_processes_of_several_machines_write_beside_each_other(tmp_path, monkeypatch):
    names = []
    for host in ("one", "two"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        with atomic_path(tmp_path / "x.txt") as temporary:
            names.append(temporary.name)
            temporary.write_text(host)
    assert len(set(names)) == 2 and [path.name for path in tmp_path.iterdir()] == ["x.txt"]
