"""What `cryopares_infer` refuses, warns of, or takes although it is odd."""

from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from untrained import ANGLES, FOM, SAMPLING, SIZE, N, given, infer, some_particles, summary, untrained_run, words

from cryopares_core.commands.infer import main
from cryopares_core.errors import UserError
from cryopares_core.inference.checks import fit_problems
from cryopares_core.inference.particles import read_new_particles
from cryopares_core.inference.predict import predict_poses
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.model.storage import load_model
from cryopares_core.particles.order import file_order
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import AS_TAKEN, FLIPPED, MULTIPLIED
from cryopares_core.volumes.maps import resample_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

CPU = torch.device("cpu")
particles = given(some_particles)
run = given(untrained_run)


@pytest.mark.parametrize(
    ("more", "words_told"),
    [
        (["--symmetry", "D7"], ["was trained under C1"]),
        (["--policy", "one_model", "--model", "allParticles"], ["--model=allParticles is not there"]),
        (["--model", "half1"], ["needs --policy one_model"]),
        (["--particles_star_fname", "nowhere.star", "--symmetry", "O"], ["nowhere.star", "was trained under C1"]),
        (["--checkpoint_dir", "nowhere"], ["no trained model is there"]),
    ],
)
def test_what_does_not_fit_is_refused(particles, run, tmp_path, capsys, more, words_told):
    assert main([*words(particles, run, tmp_path / "out"), *more]) == 2
    told = capsys.readouterr().err
    assert all(text in told for text in words_told) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "pixel", "told"),
    [(SIZE, 12.0, "are coarser than"), (SIZE, 5.0, "boxes, 160 Å, are smaller"), (SIZE, 10.5, "")],
)
def test_pictures_must_show_what_the_model_looks_at(run, tmp_path, capsys, size, pixel, told):
    settings = SimulationSettings(n_particles=20, snr=5.0, seed=3)
    simulate_particles(phantom_map(size, pixel), pixel, tmp_path, settings)
    assert main(words(tmp_path, run, tmp_path / "out")) == (2 if told else 0)
    captured = capsys.readouterr()
    assert told in captured.err if told else "Warning: The pictures' pixels, 10.5 Å, are coarser" in captured.out


def test_a_model_that_corrects_ctfs_needs_them(particles, run, tmp_path, capsys):
    content = starfile.read(particles / "particles.star")
    content["particles"] = content["particles"].drop(columns=["rlnDefocusU", "rlnDefocusV"])
    starfile.write(content, tmp_path / "no_ctf.star")
    more = ["--particles_dir", particles]
    assert main(words(tmp_path / "no_ctf.star", run, tmp_path / "out", *more)) == 2
    told = capsys.readouterr().err
    assert "rlnDefocusU" in told and "use a model that was trained without it" in told
    assert len(read_new_particles(tmp_path / "no_ctf.star", particles, needs_ctf=False, needs_halves=True).table) == N


def test_a_half_that_is_not_trained_yet(particles, tmp_path, capsys):
    run = untrained_run(tmp_path, ["half1"])
    assert main(words(particles, run, tmp_path / "out")) == 2
    assert "needs the model half2" in capsys.readouterr().err


def test_a_damaged_shard_is_named(particles, run, tmp_path, capsys):
    infer(particles, run, tmp_path, "--shard_size", 20)
    shard = tmp_path / "predictions" / "000001.npz"
    shard.write_bytes(shard.read_bytes()[:300])
    assert main(words(particles, run, tmp_path, "--shard_size", 20, "--confidence_threshold", 0.1)) == 2
    assert f"{shard}: damaged" in capsys.readouterr().err


def test_pictures_that_vanish_are_named(particles, run):
    table, _ = read_particles(particles / "particles.star")
    table.stack_paths[0] = "/nowhere/a.mrcs"
    with pytest.raises(UserError, match=r"/nowhere/a.mrcs"):
        predict_poses(*load_model(run / "half1"), table, CPU)


def test_what_refinement_needs_is_asked_for_first(particles, tmp_path, capsys):
    run = untrained_run(tmp_path, with_map=False)
    assert main(words(particles, run, tmp_path / "out", "--refine")) == 2
    told = capsys.readouterr().err
    assert "half1 and half2 has no starting_map.mrc" in told and "--reference_fname" in told
    assert main(words(particles, run, tmp_path / "out", "--refine", "--reference_fname", "nowhere.mrc")) == 2
    assert "nowhere.mrc" in capsys.readouterr().err
    assert main(words(particles, run, tmp_path / "out", "--reference_fname", "a.mrc")) == 2
    assert "is not used with --evidence network: add --refine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_broken_pictures_are_left_out_and_named(particles, run, tmp_path, capsys):
    folder = some_particles(tmp_path / "damaged")
    stack = sorted((folder / "Particles").glob("*.mrcs"))[1]
    with mrcfile.open(stack, "r+") as handle:
        handle.data[3], handle.data[7, 5, 5] = 0.0, np.nan
    kept = infer(folder, run, tmp_path / "out")
    assert "2 pictures are constant" in capsys.readouterr().out
    everything = starfile.read(tmp_path / "out" / "all.star")["particles"]
    assert len(kept) == N - 2 and len(everything) == N and np.isfinite(everything[[*ANGLES, FOM]]).all(axis=None)
    assert everything.index[everything[FOM] == 0].tolist() == [23, 27]


def test_where_no_particle_is_sure_enough_it_says_so(particles, run, tmp_path, capsys):
    assert main(words(particles, run, tmp_path, "--confidence_threshold", 1, "--reconstruct")) == 0
    told = capsys.readouterr().out
    assert "No particle reaches the confidence of 1" in told and "There is no map" in told
    assert summary(tmp_path)["kept"] == 0 and len(starfile.read(tmp_path / "all.star")["particles"]) == N


def test_other_pixels_and_boxes(run, tmp_path):
    """The same particles at half the pixel size, in larger boxes, become the same pictures for the network."""
    prepared, card = [], load_model(run / "half1")[1]
    fine = phantom_map(2 * SIZE, SAMPLING / 2)
    kinds = [("coarse", resample_map(fine, SIZE), SAMPLING), ("fine", np.pad(fine, 4), SAMPLING / 2)]
    for name, volume, pixel in kinds:
        settings = SimulationSettings(n_particles=20, snr=1e4, seed=3, sigma_shift_px=0, max_shift_px=0)
        simulate_particles(volume, pixel, tmp_path / name, settings)
        table = read_new_particles(tmp_path / name / "particles.star", None, True, True).table
        assert fit_problems(table, card) == ([], [])
        batch = next(prepared_stream(table, file_order(table), card.preparation, CPU, 20))
        prepared.append((batch.images[:, 0] * card.mask()).flatten(1))
    assert torch.nn.functional.cosine_similarity(*prepared).min() > 0.98


@pytest.mark.parametrize(
    ("mode", "kind", "told"),
    [
        ("phase_flip", FLIPPED, ""),
        ("phase_flip", MULTIPLIED, "multiplied by their CTFs"),
        ("concat_phase_flip", MULTIPLIED, "multiplied by their CTFs"),
        ("ctf_multiply", MULTIPLIED, ""),
        ("none", AS_TAKEN, ""),
        ("none", FLIPPED, "looks at pictures as they come"),
    ],
)
def test_pictures_that_came_corrected_are_warned_of_where_it_matters(particles, tmp_path, mode, kind, told):
    _, card = load_model(
        untrained_run(tmp_path, ["half1"], config=[f"datamanager.particlesDataset.ctf_correction={mode}"]) / "half1"
    )
    table, _ = read_particles(particles / "particles.star")
    problems, remarks = fit_problems(replace(table, ctf=replace(table.ctf, corrected=np.full(N, kind))), card)
    assert problems == [] and len(remarks) == bool(told) and all(told in remark for remark in remarks)
