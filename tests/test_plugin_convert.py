"""Scipion's particles to a STAR file: what comes out means the same, whoever reads it."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import torch

pytest.importorskip("pwem", reason="scipion-em is not installed")

os.environ.setdefault("SCIPION_DOMAIN", "pwem")

from pwem.constants import ALIGN_PROJ
from pwem.objects import Acquisition, Coordinate, CTFModel, Float, Integer, Particle, SetOfParticles, String, Transform

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles
from cryopares_plugin.convert import particle_problems, particle_warnings, write_particles

BOX, SAMPLING, COUNT = 32, 4.0, 130


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with simulated particles in it, as a project has: three stacks, two optics groups."""
    folder = tmp_path_factory.mktemp("project")
    settings = SimulationSettings(n_particles=COUNT, snr=0.2, stack_size=50, astigmatism_angs=3000.0)
    simulate_particles(phantom_map(BOX, SAMPLING), SAMPLING, folder, settings)
    return folder


@pytest.fixture
def truth(project: Path) -> ParticleTable:
    return read_particles(project / "particles.star")[0]


def new_set(path: Path, table: ParticleTable, acquisitions: "dict[int, Acquisition] | None" = None, **extra: Any) -> SetOfParticles:
    """A set made through pwem's own objects from a table, closed and opened again; `extra` are functions of the row's number."""
    found = SetOfParticles(filename=str(path))
    found.setSamplingRate(float(table.pixel_size_angs[0]))
    first = acquisition(table, 0)
    found.setAcquisition(first)
    found.setAlignmentProj()
    found.setHasCTF(True)
    for row in range(len(table)):
        found.append(particle(table, row, (acquisitions or {}).get(row, first), extra))
    found.write()
    found.close()
    return reopened(path)


def reopened(path: Path) -> SetOfParticles:
    found = SetOfParticles(filename=str(path))
    found.loadAllProperties()
    return found


def acquisition(table: ParticleTable, row: int) -> Acquisition:
    ctf = table.ctf
    return Acquisition(
        magnification=10000,
        voltage=float(ctf.voltage_kv[row]),
        sphericalAberration=float(ctf.cs_mm[row]),
        amplitudeContrast=float(ctf.amplitude_contrast[row]),
    )


def particle(table: ParticleTable, row: int, its_acquisition: Acquisition, extra: "dict[str, Any]") -> Particle:
    item = Particle()
    item.setLocation(int(table.slice_id[row]) + 1, table.stack_paths[table.stack_id[row]])
    item.setAcquisition(its_acquisition)
    ctf = CTFModel(phaseShift=float(table.ctf.phase_shift_deg[row]))
    ctf.setStandardDefocus(
        *(float(values[row]) for values in (table.ctf.defocus_u_angs, table.ctf.defocus_v_angs, table.ctf.defocus_angle_deg))
    )
    item.setCTF(ctf)
    item.setTransform(Transform(scipions_matrix(table, row)))
    for name, value in extra.items():
        setattr(item, name, value(row))
    return item


def scipions_matrix(table: ParticleTable, row: int) -> np.ndarray:
    """The inverse of RELION's rotation and shift, in pixels."""
    matrix = np.eye(4)
    matrix[:3, :3] = euler_degs_to_matrix(torch.tensor(table.eulers_deg[row])).numpy()
    matrix[:2, 3] = -table.shifts_angs[row] / table.pixel_size_angs[row]
    return np.linalg.inv(matrix)


def assert_same(found: ParticleTable, expected: ParticleTable) -> None:
    """Same pictures, poses, shifts, half sets; same CTFs as pictures, since U and V may have changed places."""
    assert [found.stack_paths[i] for i in found.stack_id] == [expected.stack_paths[i] for i in expected.stack_id]
    assert (found.slice_id == expected.slice_id).all()
    matrices = [euler_degs_to_matrix(torch.tensor(table.eulers_deg)) for table in (found, expected)]
    assert (matrices[0] - matrices[1]).abs().max() < 1e-6
    assert np.abs(found.shifts_angs - expected.shifts_angs).max() < 1e-4
    images = [ctf_2d(ctf_tensors(table.ctf), float(table.pixel_size_angs[0]), BOX) for table in (found, expected)]
    assert (images[0] - images[1]).abs().max() < 1e-3
    assert np.allclose(found.pixel_size_angs, expected.pixel_size_angs)


def convert(particles: SetOfParticles, folder: Path, **options: Any) -> ParticleTable:
    """To a STAR file in a folder, and from there by the core."""
    write_particles(particles, str(folder / "input.star"), **options)
    return read_particles(folder / "input.star")[0]


def test_poses_ctf_and_half_sets_come_through(truth: ParticleTable, tmp_path: Path) -> None:
    each = {row: acquisition(truth, row) for row in range(COUNT)}
    particles = new_set(tmp_path / "p.sqlite", truth, each, _rlnRandomSubset=lambda row: Integer(int(truth.half_set[row])))
    found = convert(particles, tmp_path)
    assert_same(found, truth)
    assert (found.half_set == truth.half_set).all()
    assert found.particles["rlnImageId"].astype(int).tolist() == list(range(1, COUNT + 1))
    assert found.optics is not None and len(found.optics) == 2
    assert sorted(found.optics["rlnVoltage"].astype(float)) == [200.0, 300.0]


def test_relions_reader_then_our_writer(
    project: Path, truth: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELION's file into Scipion by scipion-em-relion, out by us; group by group, since its reader drops the group."""
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    monkeypatch.chdir(project)
    both = SetOfParticles(filename=str(tmp_path / "both.sqlite"))
    relion.readSetOfParticles("particles.star", both, alignType=ALIGN_PROJ)
    both.write()
    assert any("2 different microscopes" in warning for warning in particle_warnings(both, project_path=str(project)))
    groups = truth.particles["rlnOpticsGroup"].astype(int).to_numpy()
    for group in (1, 2):
        part = truth.subset(np.flatnonzero(groups == group))
        chosen = part.optics["rlnOpticsGroup"].astype(int) == group  # type: ignore[index]
        names = [f"{place + 1:06d}@{part.stack_paths[stack]}" for stack, place in zip(part.stack_id, part.slice_id, strict=True)]
        replace(part, optics=part.optics[chosen]).write_star(tmp_path / "relion.star", {"rlnImageName": names})  # type: ignore[index]
        particles = SetOfParticles(filename=str(tmp_path / f"from_relion_{group}.sqlite"))
        relion.readSetOfParticles(str(tmp_path / "relion.star"), particles, alignType=ALIGN_PROJ)
        particles.write()
        found = convert(particles, tmp_path)
        assert_same(found, part)
        assert (found.half_set == part.half_set).all()


def test_agrees_with_relions_writer(truth: ParticleTable, tmp_path: Path) -> None:
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    part = truth.subset(np.flatnonzero(truth.ctf.voltage_kv == 300.0))
    particles = new_set(tmp_path / "p.sqlite", part, _rlnRandomSubset=lambda row: Integer(int(part.half_set[row])))
    ours = convert(particles, tmp_path)
    relion.writeSetOfParticles(particles, str(tmp_path / "relions.star"))
    blocks = starfile.read(tmp_path / "relions.star")
    del blocks["particles"]["rlnOriginZAngst"]  # all zeros; for the core a sign of sub-tomograms
    starfile.write(blocks, tmp_path / "relions.star", overwrite=True)
    relions = read_particles(tmp_path / "relions.star")[0]
    assert_same(ours, relions)
    assert (ours.half_set == relions.half_set).all()
    without_values = {"rlnCtfAstigmatism", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution"}
    assert set(relions.particles) - set(ours.particles) == without_values


def test_relions_reader_reads_what_we_write(truth: ParticleTable, tmp_path: Path) -> None:
    """Scipion to STAR by us, to Scipion by scipion-em-relion, to STAR by us: the same, with the ids."""
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    part = truth.subset(np.flatnonzero(truth.ctf.voltage_kv == 200.0))
    first = convert(new_set(tmp_path / "p.sqlite", part), tmp_path)
    back = SetOfParticles(filename=str(tmp_path / "back.sqlite"))
    relion.readSetOfParticles(str(tmp_path / "input.star"), back, alignType=ALIGN_PROJ)
    back.write()
    assert_same(first, part)
    second = convert(back, tmp_path)
    assert_same(second, part)
    assert (second.half_set == first.half_set).all()
    assert second.particles["rlnImageId"].tolist() == first.particles["rlnImageId"].tolist()


def test_a_set_that_shares_its_file(truth: ParticleTable, tmp_path: Path) -> None:
    """As the classes of a classification do, told apart by a prefix."""
    one, other = new_set(tmp_path / "one.sqlite", truth), SetOfParticles(filename=str(tmp_path / "p.sqlite"), prefix="Class002")
    other.copyInfo(one)
    other.copyItems(one, itemSelectedCallback=lambda item: item.getObjId() > 100)
    other.write()
    assert len(convert(other, tmp_path)) == COUNT - 100


def test_several_acquisitions_become_optics_groups(truth: ParticleTable, tmp_path: Path) -> None:
    """As after joining sets; numbered by first appearance, one for equal acquisitions."""
    each = {row: acquisition(truth, row) for row in range(COUNT)}
    found = convert(new_set(tmp_path / "p.sqlite", truth, each), tmp_path)
    assert (found.ctf.voltage_kv == truth.ctf.voltage_kv).all()
    assert (found.ctf.cs_mm == truth.ctf.cs_mm).all()
    assert (found.ctf.amplitude_contrast == truth.ctf.amplitude_contrast).all()
    assert found.optics is not None
    assert found.optics["rlnOpticsGroupName"].tolist() == ["opticsGroup1", "opticsGroup2"]


def test_a_joined_sets_optics_table_is_not_for_all(truth: ParticleTable, tmp_path: Path) -> None:
    """The set has the first part's acquisition, with RELION's table; the second part was not RELION's."""
    relions, other = (
        acquisition(truth, 0),
        Acquisition(magnification=1, voltage=120.0, sphericalAberration=3.0, amplitudeContrast=0.2),
    )
    relions.opticsGroupInfo.set(RELIONS_OPTICS)
    particles = new_set(tmp_path / "p.sqlite", truth, {row: other if row > 50 else relions for row in range(COUNT)})
    particles.setAcquisition(relions)
    found = convert(particles, tmp_path)
    assert found.ctf.voltage_kv.tolist() == [300.0] * 51 + [120.0] * (COUNT - 51)
    assert found.optics is not None
    assert found.optics["rlnOpticsGroupName"].tolist() == ["krios", "opticsGroup2"]
    assert found.optics["rlnEvenZernike"].tolist() == ["[0.1,-2,0]", "None"]


RELIONS_OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnBeamTiltX #7
_rlnEvenZernike #8
krios 4 300 2.7 0.1 1.0 0.25 [0.1,-2,0]
arctica 7 200 2.0 0.07 1.0 -0.5 [0,0,0]
"""


def test_relions_optics_groups_are_kept(truth: ParticleTable, tmp_path: Path) -> None:
    its_acquisition = acquisition(truth, 0)
    its_acquisition.opticsGroupInfo.set(RELIONS_OPTICS)
    particles = new_set(
        tmp_path / "p.sqlite",
        truth,
        dict.fromkeys(range(COUNT), its_acquisition),
        _rlnOpticsGroup=lambda row: Integer(4 + 3 * (row % 2)),
    )
    found = convert(particles, tmp_path)
    assert found.optics is not None
    assert found.optics["rlnOpticsGroupName"].tolist() == ["krios", "arctica"]
    assert found.optics["rlnBeamTiltX"].astype(float).tolist() == [0.25, -0.5]
    assert found.optics["rlnEvenZernike"].tolist() == ["[0.1,-2,0]", "[0,0,0]"]
    assert (found.pixel_size_angs == SAMPLING).all()
    assert found.ctf.voltage_kv[:4].tolist() == [300, 200, 300, 200]


def test_attributes_of_relion_and_coordinates_are_kept(truth: ParticleTable, tmp_path: Path) -> None:
    def coordinate(row: int) -> Coordinate:
        found = Coordinate(x=100 + row, y=7)
        found.setMicName(f"mic {row % 3}.mrc")
        return found

    particles = new_set(
        tmp_path / "p.sqlite",
        truth,
        _coordinate=coordinate,
        _rlnNrOfSignificantSamples=lambda row: Integer(row),
        _rlnMaxValueProbDistribution=lambda row: Float(1 / (row + 1)),
        _rlnGroupName=lambda row: String("" if row else "group 1"),
        _rlnAngleRot=lambda row: Float(12.0),
    )
    rows = convert(particles, tmp_path).particles
    assert rows["rlnNrOfSignificantSamples"].astype(int).tolist() == list(range(COUNT))
    assert np.allclose(rows["rlnMaxValueProbDistribution"].astype(float), 1 / np.arange(1, COUNT + 1))
    assert rows["rlnGroupName"][:2].tolist() == ["group 1", "None"]
    assert rows["rlnMicrographName"][:2].tolist() == ["mic 0.mrc", "mic 1.mrc"]
    assert rows["rlnCoordinateX"][0] == "100.000000"
    assert not (rows["rlnAngleRot"].astype(float) == 12).any()


def test_half_sets_are_drawn_where_there_are_none(truth: ParticleTable, tmp_path: Path) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth)
    first = convert(particles, tmp_path).half_set
    assert (first == 1).sum() == COUNT // 2
    assert (convert(particles, tmp_path).half_set == first).all()
    assert not (convert(particles, tmp_path, seed=1).half_set == first).all()
    done = write_particles(particles, str(tmp_path / "none.star"), half_sets=False)
    assert done.halves_drawn == 0 and "rlnRandomSubset" not in (tmp_path / "none.star").read_text()


def test_disabled_particles_are_left_out(truth: ParticleTable, tmp_path: Path) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth, _objEnabled=lambda row: row % 10 != 3)
    steps: list[tuple[int, int]] = []
    done = write_particles(particles, str(tmp_path / "input.star"), progress=lambda *step: steps.append(step))
    assert (done.particles, done.disabled) == (117, 13) and steps == [(117, 117)]
    assert "13 disabled left out" in str(done)
    assert "4" not in read_particles(tmp_path / "input.star")[0].particles["rlnImageId"].tolist()


def test_blocks_make_no_difference(truth: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth, _rlnRandomSubset=lambda row: Integer(int(truth.half_set[row])))
    write_particles(particles, str(tmp_path / "whole.star"))
    monkeypatch.setattr("cryopares_plugin.convert.write.BLOCK", 17)
    write_particles(particles, str(tmp_path / "parts.star"))
    assert (tmp_path / "whole.star").read_text() == (tmp_path / "parts.star").read_text()


def test_names_stay_relative_to_the_project(
    project: Path, truth: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(project, tmp_path / "Runs")
    relative = [f"Runs/{Path(path).relative_to(project)}" for path in truth.stack_paths]
    (tmp_path / "extra").mkdir()
    particles = new_set(Path("p.sqlite"), replace(truth, stack_paths=[f"{name}:mrcs" for name in relative]))
    monkeypatch.chdir("/")
    write_particles(particles, str(tmp_path / "extra" / "input.star"), project_path=str(tmp_path))
    found = read_particles(tmp_path / "extra" / "input.star", particles_dir=tmp_path)[0]
    assert found.particles["rlnImageName"][0] == f"000001@{relative[0]}"
    assert not list((tmp_path / "extra").glob("stacks"))


def test_other_formats_are_rewritten(truth: ParticleTable, tmp_path: Path) -> None:
    """SPIDER stacks, as Xmipp writes them; two of one name in two folders."""
    image_handler = pytest.importorskip("pwem.emlib.image").ImageHandler()
    names = []
    for number, source in enumerate(truth.stack_paths):
        (tmp_path / str(number)).mkdir()
        names.append(str(tmp_path / str(number) / "particles.stk"))
        image_handler.convertStack(source, names[-1])
    particles = new_set(tmp_path / "p.sqlite", replace(truth, stack_paths=names))
    done = write_particles(particles, str(tmp_path / "input.star"), project_path=str(tmp_path))
    assert done.stacks_converted == len(names) and "rewritten" in str(done)
    found = read_particles(tmp_path / "input.star")[0]
    for ours, original in zip(found.stack_paths, truth.stack_paths, strict=True):
        assert (mrcfile.read(ours) == mrcfile.read(original)).all()
    assert not list((tmp_path / "stacks").glob("*.part"))


def forget(particles: SetOfParticles, label: str, item: int) -> None:
    """Take a value out of an item of a set, in its file."""
    with closing(sqlite3.connect(particles.getFileName())) as connection:
        column = connection.execute("SELECT column_name FROM Classes WHERE label_property = ?", (label,)).fetchone()[0]
        connection.execute(f"UPDATE Objects SET {column} = NULL WHERE id = ?", (item,))
        connection.commit()


def test_nothing_is_left_of_a_conversion_that_fails(truth: ParticleTable, tmp_path: Path) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth)
    forget(particles, "_transform._matrix", 101)
    with pytest.raises(UserError, match="id 101 has no pose, as have 0 of the next 29"):
        write_particles(particles, str(tmp_path / "input.star"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".sqlite"] == []


@pytest.mark.parametrize("matrix", [np.diag([-1.0, 1, 1, 1]), np.diag([2.0, 2, 2, 1])])
def test_mirrored_and_scaled_matrices_are_refused(truth: ParticleTable, tmp_path: Path, matrix: np.ndarray) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth, _transform=lambda row: Transform(matrix))
    with pytest.raises(UserError, match="id 1 has a matrix that is no rotation"):
        write_particles(particles, str(tmp_path / "input.star"))
    assert "no rotation (first: id 1)" in particle_problems(particles)[0]


def test_views_along_the_axis_have_angles(tmp_path: Path, truth: ParticleTable) -> None:
    """Tilts of 0 and 180 degrees, where rot and psi are not told apart."""
    eulers = truth.eulers_deg.copy()
    eulers[:, 1] = np.where(np.arange(COUNT) % 2, 0.0, 180.0)
    along = replace(truth, eulers_deg=eulers)
    each = {row: acquisition(truth, row) for row in range(COUNT)}
    assert_same(convert(new_set(tmp_path / "p.sqlite", along, each), tmp_path), along)


def test_a_good_set_has_no_problems(truth: ParticleTable, tmp_path: Path) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth, _rlnRandomSubset=lambda row: Integer(1 + row % 2))
    assert particle_problems(particles) == []
    assert [warning.split(":")[0] for warning in particle_warnings(particles)] == [f"{COUNT} particles are few"]


def test_the_form_tells_what_is_wrong(truth: ParticleTable, tmp_path: Path) -> None:
    assert "no particles" in particle_problems(SetOfParticles(filename=str(tmp_path / "empty.sqlite")))[0]
    lost = replace(truth, stack_paths=[f"{tmp_path}/lost.mrcs", *truth.stack_paths[1:]])
    particles = new_set(tmp_path / "p.sqlite", lost)
    forget(particles, "_transform._matrix", 1)
    told = particle_problems(particles)
    assert len(told) == 2 and "1 of 130 particles have no pose" in told[0] and "1 of 3 stacks" in told[1]
    particles.getAcquisition().setVoltage(None)
    forget(particles, "_acquisition._voltage", 1)
    assert "no voltage." in particle_problems(particles)[-1]
    particles.setHasCTF(False)
    particles.setAlignment("2D")
    particles.setSamplingRate(0)
    particles.setDim((32, 30, 1))
    told = particle_problems(particles)
    for words in ("2D only", "no CTF", "no sampling rate", "32 x 30 px"):
        assert any(words in problem for problem in told), words
    assert not any("CTF" in problem for problem in particle_problems(particles, needs_ctf=False))


def test_the_form_warns_of_what_is_hardly_meant(truth: ParticleTable, tmp_path: Path) -> None:
    dark = []
    for number, source in enumerate(truth.stack_paths):
        dark.append(str(tmp_path / f"{number}.mrcs"))
        mrcfile.write(dark[-1], -mrcfile.read(source))
    one_view = replace(truth, stack_paths=dark, eulers_deg=truth.eulers_deg * [1, 0, 1])
    its_acquisition = acquisition(truth, 0)
    its_acquisition.opticsGroupInfo.set(RELIONS_OPTICS)
    particles = new_set(tmp_path / "p.sqlite", one_view, {0: its_acquisition})
    particles.setIsAmplitudeCorrected(True)
    particles.getAcquisition().opticsGroupInfo.set(RELIONS_OPTICS)
    told = particle_warnings(particles)
    for words in (
        "amplitudes are CTF-corrected already",
        "130 particles are few",
        "one direction",
        "2 different microscopes",
        "dark on",
        "half sets",
    ):
        assert any(words in warning for warning in told), words
    assert not any("half sets" in warning for warning in particle_warnings(particles, half_sets=False))


@pytest.mark.parametrize("left", [0, 20_000, None])
def test_a_set_whose_file_is_gone_or_damaged_is_told(truth: ParticleTable, tmp_path: Path, left: "int | None") -> None:
    particles = new_set(tmp_path / "p.sqlite", truth)
    whole = (tmp_path / "p.sqlite").read_bytes()
    (tmp_path / "p.sqlite").unlink()
    if left is not None:
        (tmp_path / "p.sqlite").write_bytes(whole[:left])
    with pytest.raises(UserError, match=r"p\.sqlite: the particles' own file cannot be read"):
        write_particles(particles, str(tmp_path / "input.star"))


def test_what_cannot_be_written_is_told(truth: ParticleTable, tmp_path: Path) -> None:
    particles = new_set(tmp_path / "p.sqlite", truth)
    with pytest.raises(UserError, match="cannot be written"):
        write_particles(particles, str(tmp_path / "nowhere" / "input.star"))
    particles.setAlignment("2D")
    with pytest.raises(UserError, match="aligned in 2D only"):
        write_particles(particles, str(tmp_path / "input.star"))
