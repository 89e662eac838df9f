"""`cryopares_check` on real files: sound data gives no warning, and each fault that is planted is told."""

import json
import shutil
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from settings import SMALL

from cryopares_core.commands.check import main
from cryopares_core.commands.train import main as train
from cryopares_core.config.ordinary import close_across_halves, ctf_doubts
from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import matrix_to_euler_degs, random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.prepare import complete_settings
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import FLIPPED
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight import memory
from cryopares_core.training.preflight.findings import Findings
from cryopares_core.training.preflight.particles import view_doubts
from cryopares_core.training.preflight.poses import look_at_poses
from cryopares_core.training.preflight.sample import draw_sample, spread_rows
from cryopares_core.training.preflight.times import duration
from cryopares_core.training.preflight.verdicts import tell_of_pictures
from cryopares_core.volumes.maps import read_map, write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

COUNT = 400
POSE = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """Folder of 400 noisy simulated particles of 32 px, in four stacks."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(32, 10.0), 10.0, folder, SimulationSettings(n_particles=COUNT, snr=0.3, seed=3, stack_size=100))
    return folder


@pytest.fixture
def copied(particles, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(particles, tmp_path / "particles")


def words(folder, out_dir, *more, config=()):
    fixed = ["--symmetry", "C1", "--particles_star_fname", str(folder / "particles.star"), "--batch_size", "16"]
    return [*fixed, "--train_save_dir", str(out_dir), "--n_threads", "1", *more, "--config", *SMALL, *config]


def check(folder, *more, config=()):
    """The exit code and what the JSON file says."""
    answer = folder / "answer.json"
    code = main(words(folder, folder / "out", "--json", str(answer), *more, config=config))
    assert not (folder / "out").exists(), "a check writes nothing"
    return code, json.loads(answer.read_text())


def told(answer, level):
    return [line["text"] for line in answer["findings"] if line["level"] == level]


def change_rows(folder, change):
    """Apply a function to the tables of the STAR file."""
    tables = starfile.read(folder / "particles.star")
    change(tables)
    starfile.write(tables, folder / "particles.star", overwrite=True)


def test_sound_particles_give_no_warning(particles, capsys):
    code, answer = check(particles)
    shown = capsys.readouterr().out
    assert (code, answer["errors"], answer["warnings"], told(answer, "Warning")) == (0, 0, 0, [])
    for words_shown in (
        "Settings and files",
        "explain the pictures",
        "bright on dark",
        "step on 16 pictures",
        "About",
        "can start",
    ):
        assert words_shown in shown
    measured = answer["measured"]
    assert measured["pose_z"] > 20 and measured["pose_agreement"] == pytest.approx(1, abs=0.3)
    assert measured["prepared_bytes"] == COUNT * 32 * 32 * 2
    # 180 particles of a half set, 8 of them with two copies each in a batch.
    assert measured["steps_an_epoch"] == 22
    an_epoch = measured["epoch_seconds"] * 200
    assert measured["total_seconds"] == pytest.approx(an_epoch, rel=0.2)


def invert(folder):
    for path in folder.glob("Particles/*.mrcs"):
        with mrcfile.open(path, "r+") as stack:
            stack.data[:] = -stack.data


def shuffle_poses(folder):
    def change(tables):
        tables["particles"][POSE] = tables["particles"][POSE].sample(frac=1, random_state=1).to_numpy()

    change_rows(folder, change)


def repeat_across_halves(folder):
    def change(tables):
        rows = tables["particles"]
        names = rows["rlnImageName"].to_numpy(copy=True)
        first, second = (np.flatnonzero(rows["rlnRandomSubset"] == half)[:7] for half in (1, 2))
        names[second] = names[first]
        rows["rlnImageName"] = names

    change_rows(folder, change)


def pick_twice(folder):
    """Picked a few pixels apart, and brought to the same place by the refinement."""

    def change(tables):
        rows = tables["particles"]
        first, second = (np.flatnonzero(rows["rlnRandomSubset"] == half)[:9] for half in (1, 2))
        for name in ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst"):
            rows.loc[second, name] = rows.loc[first, name].to_numpy()
        rows.loc[second, "rlnCoordinateX"] += 3
        rows.loc[second, "rlnOriginXAngst"] += 29

    change_rows(folder, change)


def header_of_another_pixel_size(folder):
    with mrcfile.open(next(folder.glob("Particles/*.mrcs")), "r+") as stack:
        stack.voxel_size = 5.0


def look_from_one_side(folder):
    change_rows(folder, lambda tables: tables["particles"].update({"rlnAngleTilt": tables["particles"]["rlnAngleTilt"] / 15}))


def leave_half_of_half_2_out(folder):
    def change(tables):
        rows = tables["particles"]
        tables["particles"] = rows[(rows["rlnRandomSubset"] == 1) | (np.arange(len(rows)) % 2 == 0)]

    change_rows(folder, change)


def defocus_in_micrometres(folder):
    def change(tables):
        for name in ("rlnDefocusU", "rlnDefocusV"):
            tables["particles"][name] /= 1e4

    change_rows(folder, change)


FAULTS = [
    (invert, "dark on a bright background (measured on a map"),
    (shuffle_poses, "The poses say nothing about the pictures"),
    (repeat_across_halves, "7 pictures stand in both half sets"),
    (pick_twice, "9 particles of half set 1 lie within 5 Å"),
    (header_of_another_pixel_size, "5 Å in the header"),
    (look_from_one_side, "The poses look from few sides"),
    (leave_half_of_half_2_out, "The half sets differ in size: 200 and"),
    (defocus_in_micrometres, "look like µm"),
]


@pytest.mark.parametrize("plant, phrase", FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_a_planted_fault_is_told(copied, plant, phrase):
    plant(copied)
    code, answer = check(copied)
    assert code == 0
    assert any(phrase in text for text in told(answer, "Warning")), answer


def test_one_optics_group_of_opposite_contrast(copied):
    """As after joining sets: half of the pictures, and then a quarter, which a map made of all still outvotes."""
    groups = starfile.read(copied / "particles.star")["particles"]["rlnOpticsGroup"].to_numpy()
    stacks = sorted(copied.glob("Particles/*.mrcs"))
    for number, path in enumerate(stacks):
        with mrcfile.open(path, "r+") as stack:
            stack.data[groups[100 * number :][:100] == 2] *= -1
    assert any("group 2 have the opposite contrast" in text for text in told(check(copied)[1], "Warning"))
    change_rows(copied, lambda tables: tables.update(particles=thinned(tables["particles"])))
    assert any("group 2 have the opposite contrast" in text for text in told(check(copied)[1], "Warning"))


def thinned(rows):
    return rows[(rows["rlnOpticsGroup"] == 1) | (np.arange(len(rows)) % 3 == 0)]


def test_what_a_file_says_of_flipped_phases_is_checked(tmp_path):
    """At a pixel size that shows several zeros of the CTF."""
    box, pixel = 64, 3.0
    simulate_particles(phantom_map(box, pixel), pixel, tmp_path, SimulationSettings(n_particles=300, snr=0.3, seed=3))
    table, _ = read_particles(tmp_path / "particles.star")
    said = replace(table, ctf=replace(table.ctf, corrected=np.full(300, FLIPPED)))
    plan = Plan(None, Config(), "C1", complete_settings(table, PreprocessSettings()), torch.device("cpu"), Phases())

    def looked(of):
        sample, found = draw_sample(of, plan), Findings()
        look = look_at_poses(sample, plan)
        tell_of_pictures(found, sample, look, len(of))
        return look, " ".join(line.text for line in found.lines if line.level == "Warning")

    (sound, nothing), (wrong, told_wrong) = looked(table), looked(said)
    with mrcfile.open(table.stack_paths[0], "r+") as stack:
        transfer = ctf_2d(ctf_tensors(table.ctf), pixel, box)
        flipped = torch.fft.rfft2(torch.from_numpy(stack.data.copy())) * torch.where(transfer < 0, -1.0, 1.0)
        stack.data[:] = torch.fft.irfft2(flipped, s=(box, box)).numpy()
    (known, also_nothing), (unsaid, told_unsaid) = looked(said), looked(table)
    assert max(sound.flipped_z, known.flipped_z) < -6 and min(wrong.flipped_z, unsaid.flipped_z) > 6
    assert nothing == also_nothing == "" and known.fit.z == pytest.approx(sound.fit.z, rel=0.02)
    assert "they seem not to be" in told_wrong and "rlnCtfDataArePhaseFlipped to 0" in told_wrong
    assert "would be flipped twice" in told_unsaid and "rlnCtfDataArePhaseFlipped to 1" in told_unsaid


def test_everything_that_training_refuses_is_told_at_once(copied, capsys):
    next(copied.glob("Particles/*.mrcs")).unlink()
    more = ["--symmetry", "X9", "--finetune_checkpoint_dir", "/nowhere", "--map_fname_for_simulated_pretraining", "absent.mrc"]
    code, answer = check(copied, *more, config=["train.learning_rate=-1", "train.lurning_rate=1"])
    assert code == 2 and answer["errors"] >= 6
    assert "refuse this" in capsys.readouterr().out
    for phrase in ("point group", "no half1/model", "absent.mrc", "learning_rate=-1", "lurning_rate", "no such stack"):
        assert any(phrase in text for text in told(answer, "Error")), phrase


@pytest.mark.parametrize(
    "more, phrase",
    [
        (["--batch_size", "17"], "not a multiple"),
        (["--batch_size", "4096"], "fewer than the"),
        (["--train_save_dir", f"{__file__}/out"], "may write"),
        (["--symmetry", "C1", "--particles_star_fname", "absent.star"], "absent.star"),
    ],
)
def test_each_refusal_of_training_is_one_of_the_check(particles, more, phrase):
    code, answer = check(particles, *more)
    assert code == 2 and any(phrase in text for text in told(answer, "Error"))


def test_words_that_cannot_be_read_are_told_as_training_does(particles, tmp_path, capsys):
    assert main([*words(particles, tmp_path), "--n_epoch", "3"]) == 2
    assert main(words(particles, tmp_path, "--json", str(tmp_path / "nowhere" / "x.json"))) == 2
    assert main(["--continue_checkpoint_dir", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert all(phrase in shown for phrase in ("--n_epoch", "nowhere", "no run of cryopares_train")) and "Traceback" not in shown


def test_bad_star_files_are_refused(shared, tmp_path, capsys):
    fine = {"relion30_equivalent", "relion31_commented", "two_pixel_sizes", "no_subset_no_origin", "duplicate_image"}
    bad = [path for path in sorted((shared / "data/star_bad").glob("*.star")) if path.stem not in fine]
    assert len(bad) > 10
    for path in bad:
        options = {
            "symmetry": "C1",
            "particles_star_fname": path,
            "particles_dir": shared / "data/tiny_32",
            "train_save_dir": tmp_path,
        }
        assert main([word for name, value in options.items() for word in (f"--{name}", str(value))]) == 2, path
        shown = capsys.readouterr()
        assert "Error" in shown.out and "Traceback" not in shown.out + shown.err
    assert not list(tmp_path.iterdir())


def test_broken_pictures_of_the_sample_are_named(copied):
    with mrcfile.open(copied / "Particles/particles_002.mrcs", "r+") as stack:
        stack.data[4] = 0
    code, answer = check(copied)
    assert code == 2 and "000005@" in told(answer, "Error")[0]


def test_a_map_of_the_user_must_stand_as_the_poses_say(copied):
    volume, pixel = read_map(copied / "reference.mrc")
    option = ["--map_fname_for_simulated_pretraining", str(copied / "map.mrc")]
    for change, level, phrase in (
        (volume, "OK", "stands as the particles' poses say"),
        (volume[::-1, :, ::-1].transpose(1, 0, 2), "Warning", "does not stand as"),
        (-volume, "Warning", "contrast is the opposite"),
    ):
        write_map(copied / "map.mrc", np.ascontiguousarray(change), pixel)
        code, answer = check(copied, *option)
        assert code == 0 and any(phrase in text for text in told(answer, level)), (phrase, answer)


def test_a_map_alone(particles, capsys):
    option = ["--symmetry", "C1", "--map_fname_for_simulated_pretraining", str(particles / "reference.mrc"), "--batch_size", "16"]
    option += ["--train_save_dir", str(particles / "out"), "--n_threads", "1", "--config", *SMALL]
    assert main(option) == 0
    shown = capsys.readouterr().out
    assert "epochs of 1,250 steps" in shown and "for simulated" in shown


def test_models_and_runs_that_do_not_fit(particles, tmp_path):
    """A real run, checked for going on, for being there already, and as the start of others."""
    done = words(particles, tmp_path, "--n_epochs", "1", "--overfit_batches", "2", "--split_halfs", "False")
    assert train(done) == 0
    run, answer = tmp_path / "version_0", tmp_path / "answer.json"

    def lines(*command):
        assert main(["--json", str(answer), *command]) == 0
        return " ".join(line["text"] for line in json.loads(answer.read_text())["findings"])

    assert "finished: training would do nothing" in lines(*done)
    goes_on = lines("--continue_checkpoint_dir", str(run), "--n_epochs", "3")
    assert "allParticles 1 of 3 epochs" in goes_on and "up to 3 epochs of 2 steps" in goes_on
    assert len(list(tmp_path.glob("version_*"))) == 1
    fits = words(particles, tmp_path, "--finetune_checkpoint_dir", str(run), "--split_halfs", "False")
    assert "Fine-tuning" not in lines(*fits)
    other = lines(*fits, "models.image2sphere.lmax=4", "datamanager.particlesDataset.sampling_rate_angs_for_nnet=12")
    for phrase in ("layers start afresh", "its box in px was 32, here it is 26", "pictures of 10 Å/px, here they have 12"):
        assert phrase in other


def test_too_little_room_is_told(particles, monkeypatch):
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 1e5)
    _, answer = check(particles)
    assert any("too much for the memory" in text for text in told(answer, "Warning"))
    assert any("Lower --batch_size" in text for text in told(answer, "Warning"))
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))
    code, answer = check(particles, "--scratch_dir", str(particles / "scratch"))
    assert code == 2 and any("give another folder with --scratch_dir" in text for text in told(answer, "Error"))
    assert not (particles / "scratch").exists()


def test_views_of_a_symmetric_particle_are_counted_with_their_mates():
    """RELION's poses of a D7 particle lie in one fourteenth of the sphere: that is no fault."""
    group = point_group("D7").matrices
    poses = random_rotations(3000, torch.Generator().manual_seed(0))
    eulers = matrix_to_euler_degs(poses).numpy()
    eulers = eulers[(eulers[:, 1] < 90) & (np.abs(eulers[:, 0]) < 180 / 7)]
    assert view_doubts(eulers, group) == []
    assert "few sides" in view_doubts(eulers, point_group("C1").matrices)[0]


def test_preferred_views_are_told():
    poses = matrix_to_euler_degs(random_rotations(4000, torch.Generator().manual_seed(0))).numpy()
    assert view_doubts(poses, point_group("C1").matrices) == []
    poses[:2600, 1] /= 9
    assert "seen from a tenth of all directions" in view_doubts(poses, point_group("C1").matrices)[0]


def test_close_particles_are_those_that_a_slow_search_finds():
    rng = np.random.default_rng(0)
    mic, xy, half = rng.integers(0, 3, 600), rng.uniform(0, 300, (600, 2)), rng.integers(1, 3, 600)
    xy[5] = np.nan
    away = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    pairs = (away <= 5) & (mic[:, None] == mic) & (half[:, None] == 1) & (half == 2)
    expected = np.flatnonzero(pairs.any(axis=1))
    assert len(expected) > 20
    np.testing.assert_array_equal(close_across_halves(mic, xy, half), expected)
    assert len(close_across_halves(mic, np.zeros((600, 2)), half)) == 0


def test_ctf_values_out_of_the_ordinary():
    usual = {"defocus_u_angs": np.linspace(8000, 25000, 200), "voltage_kv": np.full(200, 300.0), "cs_mm": np.full(200, 2.7)}
    usual |= {"defocus_v_angs": usual["defocus_u_angs"] - 300, "amplitude_contrast": np.full(200, 0.1)}
    assert ctf_doubts(usual, str) == []

    def doubts(**changed):
        return " ".join(ctf_doubts({**usual, **changed}, lambda row: f"row {row}"))

    high = usual["defocus_u_angs"].copy()
    high[[7, 8]] = 90_000
    assert "2 of 200 particles have a defocus" in doubts(defocus_u_angs=high, defocus_v_angs=high)
    assert "(first: 90,000 Å, row 7)" in doubts(defocus_u_angs=high, defocus_v_angs=high)
    assert "negative" in doubts(defocus_u_angs=-high, defocus_v_angs=-high)
    assert "same defocus" in doubts(defocus_u_angs=np.full(200, 1e4), defocus_v_angs=np.full(200, 1e4))
    assert "astigmatism" in doubts(defocus_v_angs=usual["defocus_u_angs"] + 7000)
    assert "250 kV is unusual" in doubts(voltage_kv=np.full(200, 250.0))
    assert "spherical aberration" in doubts(cs_mm=np.full(200, 9.0)) and "amplitude" in doubts(amplitude_contrast=np.zeros(200))
    assert "phase shift" in doubts(phase_shift_deg=np.full(200, 300.0))


def test_a_sample_comes_from_all_over_the_files(particles):
    table, _ = read_particles(particles / "particles.star")
    rows = spread_rows(table, 100)
    assert len(rows) <= 100 and set(table.stack_id[rows]) >= {0, 3}
    assert len(spread_rows(table, 10_000)) == COUNT
    shuffled = replace(table, slice_id=table.slice_id[::-1].copy())
    assert (np.diff(np.sort(shuffled.slice_id[spread_rows(shuffled, 100)][:50])) == 1).all()


def test_durations_in_words():
    assert [duration(s) for s in (0.123, 42, 600, 12_345, 500_000)] == ["0.12 s", "42 s", "10 min", "3.4 h", "5.8 days"]
