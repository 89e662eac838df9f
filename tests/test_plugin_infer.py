"""Particles without poses out of Scipion, and what the real command found back into it: nothing is lost on either way."""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

pytest.importorskip("pwem", reason="scipion-em is not installed")

os.environ.setdefault("SCIPION_DOMAIN", "pwem")

from pwem.constants import ALIGN_NONE, ALIGN_PROJ
from pwem.objects import Coordinate, Float, Integer, SetOfParticles, Transform, Volume
from test_plugin_convert import acquisition, new_set, reopened, scipions_matrix
from untrained import ANGLES, FOM, SAMPLING, N, given, infer, some_particles, summary, untrained_run

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.inference.checks import fit_problems, mask_radius_angs
from cryopares_core.inference.particles import read_new_particles
from cryopares_core.model.storage import read_card
from cryopares_core.particles.star import read_particles
from cryopares_core.plots.inference import read_inference
from cryopares_core.volumes.maps import write_map
from cryopares_plugin.batches import Batches
from cryopares_plugin.convert import write_particles
from cryopares_plugin.convert.poses import angles_and_shifts, matrices_of_poses
from cryopares_plugin.convert.read_results import copy_found, read_found
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.fit import ModelFiles
from cryopares_plugin.infer_checks import Request, infer_problems, infer_warnings
from cryopares_plugin.inference_record import methods, report_page, write_whole
from cryopares_plugin.inference_record import summary as words_of
from cryopares_plugin.objects import CryoparesModel
from cryopares_plugin.viewers.map_slices import bar_angs

ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]
particles = given(some_particles)
run = given(untrained_run)


@pytest.fixture(scope="module")
def table(particles):
    return read_particles(particles / "particles.star")[0]


def new_scipions(path, table):
    """A set with all that Scipion may know of particles, two microscopes among it, but no half sets for the first ten."""
    each = {row: acquisition(table, row) for row in range(N)}
    return new_set(
        path,
        table,
        each,
        _coordinate=lambda row: Coordinate(x=10 * row, y=7),
        _rlnRandomSubset=lambda row: Integer(int(table.half_set[row]) if row > 9 else 0),
        _rlnParticleFigureOfMerit=lambda row: Float(2.0),
        _rlnMaxValueProbDistribution=lambda row: Float(0.5 + row),
    )


@pytest.fixture
def scipions(table, tmp_path):
    return new_scipions(tmp_path / "p.sqlite", table)


@pytest.fixture(scope="module")
def found(table, run, tmp_path_factory):
    """What the command makes of them."""
    folder = tmp_path_factory.mktemp("found")
    write_particles(new_scipions(folder / "p.sqlite", table), str(folder / "input.star"), poses=False)
    infer(folder / "input.star", run, folder / "out", "--particles_dir", "/")
    return folder / "out" / "particles.star"


def without_alignment(path, table):
    made = new_set(path, table)
    made.setAlignment(ALIGN_NONE)
    return made


def output_of(scipions, found, path, only=slice(None)):
    """A set that the results were put into, closed and opened again."""
    output = SetOfParticles(filename=str(path))
    output.copyInfo(scipions)
    output.setAlignmentProj()
    copy_found(scipions, read_found(str(found)).only(only), output)
    output.write()
    output.close()
    return reopened(path)


# ---- matrices


def test_poses_come_back_exactly():
    draws = np.random.default_rng(1)
    angles = draws.uniform([-180, 0, -180], [180, 180, 180], (500, 3))
    origins = draws.uniform(-30, 30, (500, 2))
    back, there = angles_and_shifts(matrices_of_poses(angles, origins))
    assert np.abs(back - angles).max() < 1e-9 and np.abs(there - origins).max() < 1e-9


def test_views_along_the_axis_keep_their_rotation():
    angles = np.array([[30.0, 0, 40], [-100, 180, 20], [0, 0, 0], [170, 1e-12, 170]])
    matrices = matrices_of_poses(angles, np.full((4, 2), 3.0))
    expected = euler_degs_to_matrix(torch.from_numpy(angles)).transpose(1, 2).numpy()
    assert np.abs(matrices[:, :3, :3] - expected).max() < 1e-12
    back, there = angles_and_shifts(matrices)
    assert np.abs(matrices_of_poses(back, there) - matrices).max() < 1e-9


def test_the_matrix_is_relions_inverse(table):
    matrices = matrices_of_poses(table.eulers_deg, table.shifts_angs / SAMPLING)
    assert np.abs(matrices - [scipions_matrix(table, row) for row in range(N)]).max() < 1e-9


# ---- to the core


def test_particles_without_poses_are_written(table, tmp_path):
    write_particles(without_alignment(tmp_path / "p.sqlite", table), str(tmp_path / "in.star"), poses=False)
    assert not {*ANGLES, *ORIGINS} & set(starfile.read(tmp_path / "in.star")["particles"])
    read = read_new_particles(tmp_path / "in.star", Path("/"), True, True)
    assert (len(read.table), read.centred, set(read.table.half_set)) == (N, False, {1, 2})
    assert np.allclose(read.table.ctf.defocus_u_angs, table.ctf.defocus_u_angs, atol=1e-3)


def test_without_poses_training_is_still_refused(table, tmp_path):
    with pytest.raises(UserError, match="no projection directions"):
        write_particles(without_alignment(tmp_path / "p.sqlite", table), str(tmp_path / "in.star"))


def test_shifts_of_an_earlier_alignment_centre_particles(scipions, table, tmp_path):
    """Those of a refinement; where a particle has no pose, 0."""
    first = scipions.getFirstItem().clone()
    first.setTransform(Transform(np.diag([1.0, 1.0, -1.0, 1.0])))
    scipions.update(first)
    scipions.write()
    write_particles(scipions, str(tmp_path / "in.star"), poses=False)
    origins = starfile.read(tmp_path / "in.star")["particles"][ORIGINS].to_numpy()
    assert np.abs(origins[1:] - table.shifts_angs[1:]).max() < 1e-5 and (origins[0] == 0).all()


def test_shifts_in_2d_are_relions(scipions, tmp_path):
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    flat = SetOfParticles(filename=str(tmp_path / "flat.sqlite"))
    flat.copyInfo(scipions)
    flat.setAlignment2D()
    turns = [matrices_of_poses(np.array([[0.0, 0.0, 20.0 * row]]), np.zeros((1, 2)))[0] for row in range(N)]
    for row, item in enumerate(scipions):
        turns[row][:2, 3] = row, -2 * row
        item.setTransform(Transform(turns[row]))
        flat.append(item)
    flat.write()
    relion.writeSetOfParticles(flat, str(tmp_path / "theirs.star"))
    write_particles(flat, str(tmp_path / "ours.star"), poses=False)
    theirs, ours = (starfile.read(tmp_path / f"{name}.star")["particles"][ORIGINS].to_numpy() for name in ("theirs", "ours"))
    assert np.abs(theirs).max() > 100 and np.abs(ours - theirs).max() < 1e-5


def test_only_some_particles_are_written(scipions, tmp_path):
    wanted = np.array([3, 4, 9, 50, 58])
    done = write_particles(scipions, str(tmp_path / "in.star"), ids=wanted, poses=False)
    rows = starfile.read(tmp_path / "in.star")["particles"]
    assert done.particles == 5 and rows["rlnImageId"].tolist() == wanted.tolist()
    assert (rows["rlnMaxValueProbDistribution"] == wanted - 0.5).all()


def test_what_is_new_of_a_growing_set(scipions, tmp_path):
    scipions.setStreamState(scipions.STREAM_OPEN)
    scipions.write()
    rows, batches = ParticleRows(scipions), Batches(str(tmp_path / "batches"))
    assert rows.is_open() and batches.without(rows.ids()).tolist() == list(range(1, N + 1))
    assert batches.begin(np.array([1, 2, 7])) == 1 and batches.begin(np.array([4])) == 2
    again = Batches(str(tmp_path / "batches"))
    assert again.numbers() == [1, 2] and again.ids(1).tolist() == [1, 2, 7]
    assert again.without(rows.ids()[:8]).tolist() == [3, 5, 6, 8]
    scipions.setStreamState(scipions.STREAM_CLOSED)
    scipions.write()
    assert not rows.is_open()


def test_a_set_whose_writer_was_killed_is_read_as_it_was(scipions, tmp_path):
    scipions.close()
    path = tmp_path / "p.sqlite"
    code = """if True:
        import os, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        connection.execute("PRAGMA cache_size=1")
        connection.execute("UPDATE Objects SET enabled=0")
        connection.execute("CREATE TABLE more AS SELECT randomblob(900) FROM Objects, Objects")
        os.kill(os.getpid(), 9)"""
    subprocess.run([sys.executable, "-c", code, str(path)])
    assert path.with_name("p.sqlite-journal").exists()
    assert ParticleRows(reopened(path)).ids().tolist() == list(range(1, N + 1))


# ---- and back


def test_all_that_a_particle_had_is_kept(scipions, found, tmp_path):
    output = output_of(scipions, found, tmp_path / "o.sqlite")
    assert (len(output), output.hasAlignmentProj(), output.getSamplingRate()) == (N, True, SAMPLING)
    changed = ("_transform", "_rlnRandomSubset", "_rlnParticleFigureOfMerit")
    for before, after in zip([item.clone() for item in scipions], output, strict=True):
        one, two = (item.getObjDict() for item in (before, after))
        assert one.keys() == two.keys()
        different = [name for name in one if one[name] != two[name] and not name.startswith(changed)]
        assert not different and before.getObjId() == after.getObjId()


def test_relions_converter_gives_the_same_poses_shifts_and_confidence(scipions, found, tmp_path):
    """What a refinement of scipion-em-relion would start from."""
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    output = output_of(scipions, found, tmp_path / "o.sqlite")
    relion.writeSetOfParticles(output, str(tmp_path / "relion.star"), alignType=ALIGN_PROJ, extraLabels=[FOM])
    theirs, ours = (starfile.read(path)["particles"] for path in (tmp_path / "relion.star", found))
    one, two = (euler_degs_to_matrix(torch.tensor(rows[ANGLES].to_numpy(dtype=float))) for rows in (theirs, ours))
    assert (one - two).abs().max() < 1e-7
    assert np.abs(theirs[ORIGINS].to_numpy() - ours[ORIGINS].to_numpy()).max() < 1e-5
    assert theirs["rlnRandomSubset"].equals(ours["rlnRandomSubset"]) and np.allclose(theirs[FOM], ours[FOM])
    assert set(ours["rlnRandomSubset"]) == {1, 2}


def test_relions_reader_gives_the_same_matrices(scipions, found, tmp_path):
    """Its reader on the core's own file, ours on the same."""
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    theirs = SetOfParticles(filename=str(tmp_path / "theirs.sqlite"))
    relion.readSetOfParticles(str(found), theirs, alignType=ALIGN_PROJ)
    matrices = [item.getTransform().getMatrix().copy() for item in theirs]
    ours = [item.getTransform().getMatrix().copy() for item in output_of(scipions, found, tmp_path / "o.sqlite")]
    assert np.abs(np.subtract(matrices, ours)).max() < 1e-9


def test_our_writer_on_the_output_gives_the_cores_file(scipions, found, tmp_path):
    """As before a reconstruction."""
    write_particles(output_of(scipions, found, tmp_path / "o.sqlite"), str(tmp_path / "again.star"))
    again, first = (starfile.read(path)["particles"] for path in (tmp_path / "again.star", found))
    for name in (*ORIGINS, FOM, "rlnRandomSubset", "rlnDefocusU", "rlnImageId"):
        assert np.allclose(again[name], first[name], atol=1e-5), name
    one, two = (euler_degs_to_matrix(torch.tensor(rows[ANGLES].to_numpy(dtype=float))) for rows in (again, first))
    assert (one - two).abs().max() < 1e-7


def test_particles_that_are_gone_shift_no_pose_to_others(scipions, found, tmp_path):
    scipions._getMapper().delete(scipions[20])
    scipions.write()
    output, results = output_of(scipions, found, tmp_path / "o.sqlite"), read_found(str(found))
    assert len(output) == N - 1
    confidence = dict(zip(results.ids.tolist(), results.confidence.tolist(), strict=True))
    assert all(item._rlnParticleFigureOfMerit.get() == pytest.approx(confidence[item.getObjId()]) for item in output)


def test_no_particles_and_damaged_files(found, tmp_path):
    lines = found.read_text().splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("1\t"))
    (tmp_path / "none.star").write_text("\n".join([*lines[:first], "", ""]))
    assert len(read_found(str(tmp_path / "none.star")).ids) == 0
    (tmp_path / "cut.star").write_text("\n".join(lines)[:-300])
    with pytest.raises(UserError, match=r"cut\.star: cannot be read"):
        read_found(str(tmp_path / "cut.star"))
    with pytest.raises(UserError, match="cannot be read"):
        read_found(str(tmp_path / "absent.star"))


# ---- batches as one


def test_batches_tell_together_what_one_run_tells(scipions, run, tmp_path):
    parts = {"whole": np.arange(1, N + 1), "a": np.arange(1, 21), "b": np.arange(21, N + 1)}
    for name, ids in parts.items():
        write_particles(scipions, str(tmp_path / f"{name}.star"), ids=ids, poses=False, half_sets=False)
        infer(tmp_path / f"{name}.star", run, tmp_path / name, "--particles_dir", "/", "--confidence_threshold", 0.1)
    write_whole(str(tmp_path), [str(tmp_path / name) for name in ("a", "b", "not begun")])
    together, alone = summary(tmp_path), summary(tmp_path / "whole")
    for name in ("particles", "kept", "broken", "histogram", "threshold", "models", "warnings"):
        assert together[name] == alone[name], name
    for name in ("expected_share_right", "expected_share_right_of_kept"):
        assert together[name] == pytest.approx(alone[name], abs=1e-4)
    assert together["share_above"] == pytest.approx(alone["share_above"], abs=1e-4)
    one, two = (read_inference(folder).views for folder in (tmp_path, tmp_path / "whole"))
    assert (one["n"] == two["n"]).all() and np.allclose(one["mean_confidence"], two["mean_confidence"], atol=2e-4)
    assert words_of(str(tmp_path))[0] == f"{alone['kept']} of {N} particles are kept (confidence of at least 0.1)."
    assert "each by the network of its own half set. " in methods(str(tmp_path))[0]
    page = Path(report_page(str(tmp_path)).removeprefix("file://")).read_text()
    assert page.count("data:image/png") == 2 and f">{N}<" in page


# ---- what the form says


def request_of(run, particles, **changes):
    model = CryoparesModel(path=str(run))
    return Request(model, particles, "same_half", "", refine=False, reference=None, reconstruct=False)._replace(**changes)


def volume_of(path, side, pixel=SAMPLING):
    """One that is empty."""
    write_map(path, np.zeros((side, side, side), np.float32), pixel or 1.0)
    made = Volume(location=str(path))
    made.setSamplingRate(pixel)
    return made


def test_the_form_and_the_command_say_the_same_of_what_does_not_fit(run, scipions, table):
    card = read_card(run / "half1")
    for pixel in (9.0, SAMPLING, 1.05 * SAMPLING, 1.2 * SAMPLING):
        for box in (20, 28, 32, 40):
            scipions.setSamplingRate(pixel)
            scipions.setDim((box, box, 1))
            sized = replace(table, pixel_size_angs=np.full(N, pixel), image_size_px=np.full(N, box))
            problems, remarks = fit_problems(sized, card)
            assert ModelFiles(CryoparesModel(path=str(run))).misfits(scipions) == (problems, remarks)
    assert len(problems) == 1 and mask_radius_angs(card) == 130.0


def test_sound_particles_are_told_nothing_of(run, scipions):
    assert infer_problems(request_of(run, scipions, refine=True, reconstruct=True)) == []
    assert infer_warnings(request_of(run, scipions, refine=True, reconstruct=True)) == []


def test_models_that_are_not_there(run, scipions, tmp_path):
    for name in ("half1", "half2"):
        shutil.copytree(run / name, tmp_path / "one" / name)
    (tmp_path / "one" / "half2" / "model.json").unlink()
    told = [infer_problems(request_of(tmp_path / "one", scipions, policy=policy)) for policy in ("same_half", "both", "one_model")]
    assert "The model of half2 is not there, only half1." in told[0][0] and told[0] == told[1] and told[2] == []
    wanted = request_of(run, scipions, policy="one_model", one_model="allParticles")
    assert "allParticles is not there, only half1, half2" in infer_problems(wanted)[0]
    assert "folder was moved or is damaged" in infer_problems(request_of(tmp_path / "gone", scipions))[0]


def test_refining_needs_a_map(run, scipions, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "half2" / "starting_map.mrc").unlink()
    told = infer_problems(request_of(tmp_path / "run", scipions, refine=True))
    assert told == ["The model of half2 has kept no map of its training particles. Give a map to refine against."]
    given_map = volume_of(tmp_path / "map.mrc", 32)
    assert infer_problems(request_of(tmp_path / "run", scipions, refine=True, reference=given_map), "/") == []


def test_maps_and_masks_are_looked_at_before_any_work(run, scipions, tmp_path):
    fitting, large = volume_of(tmp_path / "fitting.mrc", 32), volume_of(tmp_path / "large.mrc", 40)
    unknown = volume_of(tmp_path / "unknown.mrc", 32, None)
    gone = Volume(location=str(tmp_path / "gone.mrc"))
    gone.setSamplingRate(SAMPLING)

    def told(**changes):
        return " ".join(infer_problems(request_of(run, scipions, **changes), "/"))

    assert told(refine=True, reference=large, reconstruct=True, mask=fitting, mask_radius_angs=900.0) == ""
    assert "Mask for the correlation: it has 40 px of 10 Å, and the particles 32 px" in told(reconstruct=True, mask=large)
    assert "Map to search and refine against: its pixel size is not known" in told(refine=True, reference=unknown)
    assert (
        "gone.mrc' is not there" in told(refine=True, reference=gone) and told(reference=gone, mask=gone, evidence="network") == ""
    )
    assert "gone.mrc' is not there" in told(reference=gone)
    assert "Mask radius: 500 Å is more than half of the particles' box, 160 Å" in told(reconstruct=True, mask_radius_angs=500.0)


def test_what_the_command_would_refuse_of_a_search_or_a_comparison(run, scipions, tmp_path):
    plain, halved = volume_of(tmp_path / "plain.mrc", 32), volume_of(tmp_path / "whole.mrc", 32)
    halved.setHalfMaps([plain.getFileName(), plain.getFileName()])

    def told(**changes):
        return " ".join(infer_problems(request_of(run, scipions, **changes), "/"))

    assert told(consensus=True) == told(evidence="map") == told(consensus=True, evidence="map", reference=halved) == ""
    assert "it has no half maps" in told(consensus=True, evidence="map", reference=plain)
    assert told(consensus=True, reference=plain) == ""
    for policy in ("both", "one_model"):
        assert "'Which model' must be same_half" in told(consensus=True, policy=policy)
    assert "needs a network" in told(evidence="map", quarter_turns=True)


def test_the_form_has_the_options_of_a_comparison():
    from cryopares_plugin.protocols import ProtCryoparesInfer

    protocol = ProtCryoparesInfer()
    names = ("evidence", "consensus", "consensus_max_error_degs")
    assert [protocol.getParam(name).isExpert() for name in names] == [False, True, True]
    reference = protocol.getParam("referenceVolume").condition.get()
    shown = [eval(reference, {}, {"refine": refine, "evidence": kind}) for refine in (True, False) for kind in (0, 1, 2)]
    assert shown == [True, True, True, True, False, True]
    protocol.consensus_max_error_degs.set(5.0)
    assert protocol._asksConsensus() and protocol._option("consensus_max_error_degs") == ["--consensus_max_error_degs", "5.0"]


def test_disagreement_of_half_models_comes_onto_the_particles(scipions, run, tmp_path):
    """Of two batches, and their figures together."""
    for name, ids in (("a", np.arange(1, 21)), ("b", np.arange(21, N + 1))):
        write_particles(scipions, str(tmp_path / f"{name}.star"), ids=ids, poses=False, half_sets=False)
        rows = infer(tmp_path / f"{name}.star", run, tmp_path / name, "--particles_dir", "/", "--consensus", "True")
    output = output_of(scipions, tmp_path / "b" / "particles.star", tmp_path / "o.sqlite")
    assert [item._rlnPoseConsensusAngularError.get() for item in output] == pytest.approx(
        rows["rlnPoseConsensusAngularError"].tolist()
    )
    write_whole(str(tmp_path), [str(tmp_path / name) for name in "ab"])
    together = summary(tmp_path)["consensus"]
    assert sum(together["histogram"]["counts"]) == N and together["dropped"] == 0
    assert any("The models of both half sets agree within 5°" in line for line in words_of(str(tmp_path)))


def test_one_half_set_makes_no_half_maps(run, table, tmp_path):
    alone = new_set(tmp_path / "p.sqlite", table, _rlnRandomSubset=lambda row: Integer(2))
    assert "All particles are of half set 2" in infer_problems(request_of(run, alone, reconstruct=True))[0]
    assert infer_problems(request_of(run, alone)) == []


def test_flipped_phases_are_told_to_the_core(run, scipions, tmp_path):
    scipions.setIsPhaseFlipped(True)
    write_particles(scipions, str(tmp_path / "in.star"), poses=False)
    assert set(starfile.read(tmp_path / "in.star")["optics"]["rlnCtfDataArePhaseFlipped"]) == {1}
    scipions.setIsAmplitudeCorrected(True)
    assert "amplitudes are CTF-corrected" in infer_warnings(request_of(run, scipions, refine=True))[0]


def test_ctfs_are_needed_by_models_that_correct_them(run, table, tmp_path):
    bare = without_alignment(tmp_path / "p.sqlite", table)
    bare.setHasCTF(False)
    assert "have no CTF" in infer_problems(request_of(run, bare))[0]
    without = untrained_run(tmp_path, config=["datamanager.particlesDataset.ctf_correction=none"])
    assert infer_problems(request_of(without, bare)) == []


def test_half_maps_that_are_not_independent_are_told_of(run, scipions):
    for policy in ("both", "one_model"):
        told = infer_warnings(request_of(run, scipions, policy=policy, reconstruct=True))
        assert len(told) == 1 and "not independent" in told[0]


def test_only_what_the_core_cannot_know_is_warned_of(run, scipions):
    scipions.setIsPhaseFlipped(True)
    assert infer_warnings(request_of(run, scipions)) == []
    scipions.setIsAmplitudeCorrected(True)
    assert "corrects them once more" in infer_warnings(request_of(run, scipions))[0]


def test_a_scale_bar_has_a_round_length():
    assert [bar_angs(size) for size in (40.0, 199.0, 200.0, 320.0, 500.0)] == [10.0, 20.0, 50.0, 50.0, 100.0]


def test_cards_are_read_as_they_were_written(run):
    card = read_card(run / "half1")
    files = ModelFiles(CryoparesModel(path=str(run)))
    assert files.cards["half1"] == asdict(card) and files.needs_ctf()
    assert files.at_work("same_half", "") == ["half1", "half2"] and files.at_work("one_model", "half2") == ["half2"]
