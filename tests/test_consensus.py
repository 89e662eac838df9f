"""The poses by the models of both half sets against each other: `--consensus` and `--consensus_max_error_degs`."""

import numpy as np
import pytest
import starfile
import torch
from untrained import ANGLES, FOM, SAMPLING, SIZE, N, given, infer, some_particles, summary, untrained_run, words

from cryopares_core.commands.infer import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.inference.predict import predict_poses
from cryopares_core.inference.results import Results, Selection
from cryopares_core.model.storage import load_model
from cryopares_core.particles.star import read_particles
from cryopares_core.plots.consensus import consensus_edges_degs, histogram_median
from cryopares_core.search.prior import NetworkPrior
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

CPU = torch.device("cpu")
COLUMN = "rlnPoseConsensusAngularError"
particles = given(some_particles)
run = given(untrained_run)


@pytest.fixture(scope="module")
def compared(particles, run, tmp_path_factory):
    """A finished run of the networks alone, in one shard."""
    out = tmp_path_factory.mktemp("compared")
    infer(particles, run, out, "--consensus", "True")
    return out


def rows_of(folder):
    return starfile.read(folder / "particles.star")["particles"]


def matrices(rows):
    return euler_degs_to_matrix(torch.tensor(rows[ANGLES].to_numpy(dtype=np.float64)))


def turned_phantom():
    """By 90 degrees about z."""
    return np.rot90(phantom_map(SIZE, SAMPLING), axes=(1, 2)).copy()  # [z, y, x]


def by_both_networks(particles, run, symmetry):
    """Distances of the poses that each network finds by itself."""
    table, _ = read_particles(particles / "particles.star")
    first, second = (predict_poses(*load_model(run / half), table, CPU, 16).double() for half in ("half1", "half2"))
    return pose_error_degs(first, second, point_group(symmetry).matrices).numpy()


def test_networks_disagree_as_found_one_by_one(compared, particles, run):
    rows = rows_of(compared)
    assert np.abs(rows[COLUMN] - by_both_networks(particles, run, "C1")).max() < 0.1
    assert rows[COLUMN].between(0, 180).all() and rows[COLUMN].median() > 10


def test_mates_under_symmetry_agree(particles, tmp_path):
    run = untrained_run(tmp_path, symmetry="D7")
    rows = infer(particles, run, tmp_path / "out", "--consensus", "True")
    assert np.abs(rows[COLUMN] - by_both_networks(particles, run, "D7")).max() < 0.1
    plain = by_both_networks(particles, run, "C1")
    assert rows[COLUMN].mean() < plain.mean() - 10


def test_the_pose_stays_that_of_the_own_half_set(compared, particles, run, tmp_path):
    plain, rows = infer(particles, run, tmp_path), rows_of(compared)
    assert COLUMN not in plain and "consensus" not in summary(tmp_path)
    assert plain.equals(rows.drop(columns=COLUMN))


def test_shards_and_processes_change_nothing(compared, particles, run, tmp_path):
    rows, expected = infer(particles, run, tmp_path, "--consensus", "True", "--shard_size", 30, "--devices", 2), rows_of(compared)
    assert len(list((tmp_path / "predictions").glob("*.npz"))) >= 2
    np.testing.assert_allclose(rows[[*ANGLES, COLUMN]], expected[[*ANGLES, COLUMN]], atol=0.05)


def test_a_maximum_keeps_those_below_and_needs_no_new_poses(compared, particles, run):
    everything = rows_of(compared)
    limit, least = float(everything[COLUMN].median()), float(everything[FOM].quantile(0.3))
    before = {path: path.stat().st_mtime_ns for path in (compared / "predictions").glob("*.npz")}
    kept = infer(particles, run, compared, "--consensus_max_error_degs", limit, "--confidence_threshold", least)
    sure, near = everything[FOM] >= least, everything[COLUMN] < limit
    assert before and {path: path.stat().st_mtime_ns for path in before} == before
    assert kept.equals(everything[sure & near].reset_index(drop=True)) and 0 < len(kept) < near.sum()
    assert starfile.read(compared / "all.star")["particles"].equals(everything)
    told = summary(compared)["consensus"]
    assert (told["dropped"], told["max_error_degs"]) == ((sure & ~near).sum(), limit)
    assert told["median_degs"] == pytest.approx(limit, abs=1e-3) and sum(told["histogram"]["counts"]) == N
    assert told["share_within_5_degs"] == pytest.approx((everything[COLUMN] < 5).mean(), abs=1e-4)
    page = (compared / "report.html").read_text()
    assert f"{told['dropped']} are dropped for a disagreement" in page and page.count("data:image/png") == 3
    infer(particles, run, compared, "--consensus", "True")  # as it was
    assert rows_of(compared).equals(everything)


def test_nothing_agrees_is_told(compared, particles, run, capsys):
    infer(particles, run, compared, "--consensus_max_error_degs", 1e-4)
    assert "Raise --consensus_max_error_degs" in capsys.readouterr().out
    infer(particles, run, compared, "--consensus", "True")


@pytest.mark.parametrize(
    ("prior", "snr"), [(NetworkPrior(), 5.0), (NetworkPrior(1000.0, 1e-300), 0.01)], ids=["map decides", "network decides"]
)
def test_a_search_compares_networks_and_maps_of_both_half_sets(tmp_path, monkeypatch, prior, snr):
    """With the half sets of all particles exchanged, each gets the pose that it was compared with."""
    monkeypatch.setattr("cryopares_core.inference.posterior.FLAT", prior)
    run, particles = untrained_run(tmp_path), tmp_path / "particles"
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, particles, SimulationSettings(n_particles=30, snr=snr, seed=3))
    write_map(run / "half2" / "starting_map.mrc", turned_phantom(), SAMPLING)
    more = ["--consensus", "True", "--evidence", "both", "--particles_dir", particles]
    content = starfile.read(particles / "particles.star")
    content["particles"]["rlnRandomSubset"] = 3 - content["particles"]["rlnRandomSubset"]
    starfile.write(content, tmp_path / "exchanged.star")
    one = infer(particles, run, tmp_path / "one", *more)
    two = infer(tmp_path / "exchanged.star", run, tmp_path / "two", *more)
    apart = pose_error_degs(matrices(one), matrices(two)).numpy()
    # Each run learns its own noise, which moves the poses of noisy images a little.
    assert np.median(np.abs(one[COLUMN] - apart)) < 1 and np.abs(one[COLUMN] - two[COLUMN]).median() < 1
    by_map = np.abs(one[COLUMN] - 90).median()
    assert by_map < 3 if prior.is_flat else by_map > 5 and one[COLUMN].median() > 10


def test_maps_alone_are_compared(particles, tmp_path):
    """The second map is turned by 90 degrees about z, and so are its poses against the first's."""
    for name, one in (("one.mrc", phantom_map(SIZE, SAMPLING)), ("two.mrc", turned_phantom())):
        write_map(tmp_path / name, one, SAMPLING)
    fixed = ["--particles_star_fname", particles / "particles.star", "--results_dir", tmp_path / "out", "--accelerator", "cpu"]
    maps = ["--reference_fname", tmp_path / "one.mrc", "--reference_half2_fname", tmp_path / "two.mrc"]
    assert main([*map(str, [*fixed, *maps]), "--n_threads", "1", "--consensus", "True"]) == 0
    assert rows_of(tmp_path / "out")[COLUMN].median() == pytest.approx(90, abs=3)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["--consensus", "True", "--policy", "both"],
            "--consensus compares the models of both half sets and needs --policy same_half",
        ),
        (["--consensus_max_error_degs", "5", "--policy", "one_model"], "use --policy same_half"),
        (["--consensus", "True", "--evidence", "map", "--reference_fname", "x.mrc"], "--reference_half2_fname"),
        (["--consensus_max_error_degs", "0"], "above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(particles, run, tmp_path, capsys, more, told):
    assert main([*words(particles, run, tmp_path / "out"), *more]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_one_model_has_nobody_to_agree_with(particles, run, tmp_path, capsys):
    assert main(words(particles, run / "half1", tmp_path / "out", "--consensus", "True")) == 2
    assert "needs the models of both half sets, and only half1 is there" in capsys.readouterr().err


def test_images_that_cannot_be_used_agree_with_nothing(particles):
    table, _ = read_particles(particles / "particles.star")
    broken = np.arange(N) == 3
    found = Results(table, np.zeros((N, 1, 3)), np.ones((N, 1)), np.zeros((N, 1, 2)), broken, np.linspace(0, 59, N))
    assert np.flatnonzero(found.kept(Selection(None, 5.0))).tolist() == [0, 1, 2, 4]
    assert found.kept(Selection()).sum() == N - 1


def test_the_median_of_batches_comes_from_their_histograms():
    values = np.exp(np.random.default_rng(0).normal(1.0, 1.0, 2000))
    edges = consensus_edges_degs()
    counts = np.histogram(values.clip(edges[0], edges[-1]), edges)[0]
    assert histogram_median(edges, counts) == pytest.approx(np.median(values), rel=0.05)
    assert histogram_median(edges, 0 * counts) is None
