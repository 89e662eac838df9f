"""The real command from models and pictures to STAR files: which model for whom, several processes, killed and gone on with."""

import os
import signal
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from runs import SERVER
from untrained import ANGLES, FOM, SAMPLING, SIZE, N, given, infer, some_particles, summary, untrained_run, words

from cryopares_core.commands.infer import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs, rotvec_to_matrix
from cryopares_core.inference.models import load_models, model_folders
from cryopares_core.inference.policy import assign
from cryopares_core.inference.predict import PredictionSettings, ShardPredictor, predict_poses
from cryopares_core.inference.stream import BATCHES_AHEAD, prepared_stream
from cryopares_core.machine import Place, given_place
from cryopares_core.model.storage import load_model
from cryopares_core.particles import stacks
from cryopares_core.particles.order import file_order
from cryopares_core.particles.star import read_particles
from cryopares_core.plots.fsc import read_fsc
from cryopares_core.shards import Shards
from cryopares_core.training.phases import Phases
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

CPU = torch.device("cpu")
particles = given(some_particles)
run = given(untrained_run)


@pytest.fixture(scope="module")
def found(particles, run, tmp_path_factory):
    """Results of an undisturbed run, in shards of 10."""
    out = tmp_path_factory.mktemp("results")
    infer(particles, run, out, "--shard_size", 10)
    return out


def matrices(rows):
    return euler_degs_to_matrix(torch.tensor(rows[ANGLES].to_numpy(dtype=np.float64)))


def own_poses(run, name, table):
    return predict_poses(*load_model(run / name), table, CPU, 16)


def test_each_half_set_gets_the_poses_of_its_own_model(found, particles, run):
    table, _ = read_particles(particles / "particles.star")
    poses = matrices(starfile.read(found / "particles.star")["particles"])
    by_model = {half: own_poses(run, f"half{half}", table).double() for half in (1, 2)}
    for half in (1, 2):
        mine = torch.from_numpy(table.half_set == half)
        assert pose_error_degs(poses[mine], by_model[half][mine]).max() < 0.1
        assert pose_error_degs(poses[mine], by_model[3 - half][mine]).median() > 10


def test_the_star_file_keeps_what_it_had(found, particles):
    given, written = (starfile.read(folder / "particles.star") for folder in (particles, found))
    assert written["optics"].equals(given["optics"])
    kept = [name for name in given["particles"] if name not in (*ANGLES, FOM)]
    assert written["particles"][kept].equals(given["particles"][kept])
    assert set(written["particles"]) - set(given["particles"]) == {FOM}
    assert written["particles"][FOM].between(0, 1).all()
    assert not list(found.rglob("*.tmp")) and not (found / "all.star").exists()


def test_it_tells_what_it_found(found):
    told = summary(found)
    assert (told["particles"], told["kept"], told["broken"], told["models"]) == (N, N, 0, ["half1", "half2"])
    assert sum(told["histogram"]["counts"]) == N and told["particles_per_second"] > 0
    page = (found / "report.html").read_text()
    assert page.count("data:image/png") == 2 and "no calibration" in page and 'src="http' not in page
    views = np.loadtxt(found / "views.csv", delimiter=",", skiprows=1)
    assert views[:, 2].sum() == N


def test_a_finished_run_says_so_and_changes_nothing(found, particles, run, capsys):
    before = {path: path.stat().st_mtime_ns for path in found.rglob("*")}
    infer(particles, run, found, "--shard_size", 10)
    assert "results of this very command" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in found.rglob("*")} == before


def test_another_threshold_needs_no_new_poses(particles, run, tmp_path):
    everything = infer(particles, run, tmp_path)
    threshold = float(everything[FOM].median())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").glob("*.npz")}
    kept = infer(particles, run, tmp_path, "--confidence_threshold", threshold)
    assert before and {path: path.stat().st_mtime_ns for path in before} == before
    assert kept.equals(everything[everything[FOM] >= threshold].reset_index(drop=True)) and 0 < len(kept) < N
    assert starfile.read(tmp_path / "all.star")["particles"].equals(everything)
    assert summary(tmp_path)["kept"] == len(kept)


def test_other_settings_need_another_folder(found, particles, run, capsys):
    assert main(words(particles, run, found, "--shard_size", 10, "--policy", "both")) == 2
    told = capsys.readouterr().err
    assert "--policy differs" in told and "Give another folder" in told
    assert summary(found)["asked"]["policy"] == "same_half"


def test_who_finds_whose_poses():
    halves = np.array([1, 2, 2, 1, 2])
    own, _ = assign("same_half", None, ["half1", "half2"], halves)
    assert [own.teams[team] for team in own.team] == [(f"half{half}",) for half in halves]
    both, told = assign("both", None, ["half1", "half2"], halves)
    assert both.teams == [("half1", "half2")] and not both.team.any() and "not independent" in told
    one, _ = assign("one_model", "half2", ["half1", "half2"], halves)
    assert one.names == {"half2"} and len(one.team) == 5
    assert assign("one_model", None, ["half1", "half2"], halves)[0].names == {"half1"}
    whole, told = assign("same_half", None, ["allParticles"], halves)
    assert whole.names == {"allParticles"} and "One model" in told
    assert assign("same_half", None, ["half1"], np.ones(3, dtype=np.int8))[0].names == {"half1"}


def test_models_of_a_team_answer_with_the_mean_of_their_log_densities(particles, run):
    table, _ = read_particles(particles / "particles.star")
    models, order = load_models(model_folders(run), {"half1", "half2"}), file_order(table)
    assignment, _ = assign("both", None, models, table.half_set)
    predict = ShardPredictor(table, assignment, models, CPU, PredictionSettings(batch_size=16), Phases())
    poses = euler_degs_to_matrix(torch.from_numpy(predict(order, lambda done: None).eulers_degs[:, 0]))
    networks, card = [model.network for model in models.values()], models["half1"].card
    density = networks[0].density
    batch = next(prepared_stream(table, order, card.preparation, CPU, N))
    with torch.inference_mode():
        coefficients = sum(network(batch.images * card.mask()) for network in networks) / 2
        expected = density.poses(coefficients, density.grid_values(coefficients))
    assert pose_error_degs(poses, expected).max() < 0.1


def test_a_run_without_half_sets_serves_all(particles, tmp_path):
    run = untrained_run(tmp_path, ["allParticles"])
    assert len(infer(particles, run / "allParticles", tmp_path / "out")) == N
    assert summary(tmp_path / "out")["models"] == ["allParticles"]


def test_particles_that_were_never_refined(particles, run, tmp_path, capsys):
    """No angles, no origins, no half sets."""
    content = starfile.read(particles / "particles.star")
    gone = [*ANGLES, "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset"]
    content["particles"] = content["particles"].drop(columns=gone)
    starfile.write(content, tmp_path / "new.star")
    rows = infer(tmp_path / "new.star", run, tmp_path / "out", "--particles_dir", particles)
    assert "no half sets" in capsys.readouterr().out
    assert set(gone) <= set(rows) and sorted(rows["rlnRandomSubset"].value_counts()) == [N // 2, N // 2]
    assert (rows[["rlnOriginXAngst", "rlnOriginYAngst"]] == 0).all(axis=None)
    assert np.isfinite(rows[ANGLES]).all(axis=None) and np.ptp(rows["rlnAngleRot"]) > 10


def test_further_poses(particles, run, tmp_path):
    best = infer(particles, run, tmp_path, "--top_k", 3)
    further = starfile.read(tmp_path / "further_poses.star")["particles"]
    assert set(further["cryoparesRank"]) == {2, 3} and set(further["rlnImageName"]) <= set(best["rlnImageName"])
    first = best.set_index("rlnImageName").loc[further["rlnImageName"]]
    assert (further[FOM].to_numpy() <= first[FOM].to_numpy()).all()
    assert pose_error_degs(matrices(first), matrices(further)).min() > 180 / 5 - 0.1
    total = further.groupby("rlnImageName")[FOM].sum() + best.set_index("rlnImageName")[FOM]
    assert total.max() < 1 + 1e-4


def test_refinement_and_map_go_on_from_the_poses_found(run, tmp_path):
    """Poses that are 5 degrees off stand in for what a trained network finds."""
    settings = SimulationSettings(n_particles=N, snr=2.0, seed=3, sigma_shift_px=0.5)
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, tmp_path, settings)
    truth, out = starfile.read(tmp_path / "particles.star")["particles"], tmp_path / "out"
    infer(tmp_path, run, out)
    with np.load(out / "predictions" / "000000.npz") as content:
        found = dict(content)
    turns = rotvec_to_matrix(torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.05)
    found["eulers_degs"] = matrix_to_euler_degs(matrices(truth) @ turns).numpy()[:, None].astype(np.float32)
    np.savez(out / "predictions" / "000000.npz", **found)
    more = ["--refine", "--reconstruct", "--resolution_angs", 20]
    rows = infer(tmp_path, run, out, *more)
    before, after = (pose_error_degs(matrices(truth), poses) for poses in (matrices(truth) @ turns, matrices(rows)))
    assert after.median() < 0.5 * before.median() and len(list((out / "refined").glob("*.npz"))) == 1
    with mrcfile.open(out / "reconstruction" / "map.mrc") as handle:
        assert np.corrcoef(handle.data.ravel(), phantom_map(SIZE, SAMPLING).ravel())[0, 1] > 0.7
    assert read_fsc(out / "reconstruction" / "fsc.csv")["corrected"][1] > 0.9
    assert (out / "report.html").read_text().count("data:image/png") == 3
    assert starfile.read(out / "particles.star")["particles"].equals(rows)


def test_killed_it_goes_on_where_it_was(found, particles, run, tmp_path):
    """Two processes, killed at once; then one."""
    more = ["--shard_size", 10, "--devices", 2]
    out, done = tmp_path / "out", tmp_path / "out" / "predictions"
    process = SERVER.Process(target=_infer, args=(words(particles, run, out, *more), tmp_path / "log"))
    process.start()
    while len(list(done.glob("*.npz"))) < 2 and process.is_alive():
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (out / "particles.star").exists()
    before = {path: path.stat().st_mtime_ns for path in done.glob("*.npz")}
    assert 2 <= len(before) < 8
    rows = infer(particles, run, out, "--shard_size", 10)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    expected = starfile.read(found / "particles.star")["particles"]
    np.testing.assert_allclose(rows[[*ANGLES, FOM]], expected[[*ANGLES, FOM]], atol=0.02)  # shards are others, and so are batches
    assert not list(out.rglob("*.tmp"))


def test_asked_to_stop_it_wants_to_go_on(particles, run, tmp_path):
    done = tmp_path / "out" / "predictions"
    process = SERVER.Process(target=_infer, args=(words(particles, run, tmp_path / "out", "--shard_size", 5), tmp_path / "log"))
    process.start()
    while not list(done.glob("*.npz")) and process.is_alive():
        pass
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75 and "The same command goes on" in (tmp_path / "log").read_text()


def _infer(argv, log: Path) -> None:
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(main(argv))


def test_a_shard_is_worked_on_by_one_process_until_that_dies(tmp_path):
    first, second = (Shards(tmp_path, np.arange(20), 10) for _ in "ab")
    first.begin({})
    second.begin({})
    mine, others = first.mine(0, wait=False), second.mine(0, wait=False)
    assert next(mine) == 0 and next(others) == 1
    assert list(second.mine(0, wait=False)) == []
    mine.close()
    assert next(second.mine(0, wait=False)) == 0


def test_who_has_started_this_process(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert given_place() is None
    slurm = {"SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": 4, "SLURM_STEP_NUM_NODES": 2, "SLURM_PROCID": 3, "SLURM_LOCALID": 1}
    for name, value in slurm.items():
        monkeypatch.setenv(name, str(value))
    assert given_place() == Place(3, 4, 1, 2)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert given_place() == Place(1, 2, 1, 2)


def test_few_pictures_are_in_memory(particles, run, monkeypatch):
    """However many there are, no more are read than a few batches ahead."""
    table, _ = read_particles(particles / "particles.star")
    read, used = [], 0
    original = stacks.read_images
    monkeypatch.setattr("cryopares_core.inference.stream.read_images", lambda *args: (read.append(1), original(*args))[1])
    for batch in prepared_stream(table, file_order(table), load_model(run / "half1")[1].preparation, CPU, 4):
        used += 1
        assert len(read) <= used + BATCHES_AHEAD and len(batch.indices) == 4
    assert used == N / 4
