"""Scipion's particles to a STAR file: what comes out means the same, whoever reads it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pwem", reason="scipion-em is not installed")

os.environ.setdefault("SCIPION_DOMAIN", "pwem")

from pwem.constants import ALIGN_PROJ
from pwem.objects import Acquisition, CTFModel, Integer, Particle, SetOfParticles, Transform

from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles
from cryopares_plugin.convert import write_particles

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


def test_relions_reader_then_our_writer(project: Path, truth: ParticleTable, tmp_path: Path) -> None:
    """RELION's file into Scipion by scipion-em-relion, out by us, group by group since its reader drops the group."""
    relion = pytest.importorskip("relion.convert", reason="scipion-em-relion is not installed")
    groups = truth.particles["rlnOpticsGroup"].astype(int).to_numpy()
    for group in (1, 2):
        part = truth.subset(np.flatnonzero(groups == group))
        chosen = part.optics["rlnOpticsGroup"].astype(int) == group  # type: ignore[index]
        names = [f"{place + 1:06d}@{part.stack_paths[stack]}" for stack, place in zip(part.stack_id, part.slice_id, strict=True)]
        from dataclasses import replace

        replace(part, optics=part.optics[chosen]).write_star(tmp_path / "relion.star", {"rlnImageName": names})  # type: ignore[index]
        particles = SetOfParticles(filename=str(tmp_path / f"from_relion_{group}.sqlite"))
        relion.readSetOfParticles(str(tmp_path / "relion.star"), particles, alignType=ALIGN_PROJ)
        particles.write()
        found = convert(particles, tmp_path)
        assert_same(found, part)
        assert (found.half_set == part.half_set).all()
