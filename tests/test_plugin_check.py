"""What Scipion's form tells of a whole set before anything runs: each fault, wherever it is, and nothing of sound data."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed")

os.environ.setdefault("SCIPION_DOMAIN", "pwem")

from pwem.objects import Coordinate, Integer
from test_plugin_convert import forget, new_set, reopened

from cryopares_core.particles.star import read_particles
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles
from cryopares_plugin.convert import particle_problems, particle_warnings
from cryopares_plugin.convert.poses import read_matrices
from cryopares_plugin.convert.whole import matrices_of

BOX, SAMPLING, COUNT = 32, 4.0, 120


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Simulated particles in three stacks."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(BOX, SAMPLING), SAMPLING, folder, SimulationSettings(n_particles=COUNT, snr=0.2, stack_size=40))
    return read_particles(folder / "particles.star")[0]


@pytest.fixture
def copied(table, tmp_path):
    """The same with stacks that may be damaged."""
    paths = [str(tmp_path / f"{number}.mrcs") for number in range(len(table.stack_paths))]
    for source, path in zip(table.stack_paths, paths, strict=True):
        shutil.copyfile(source, path)
    return replace(table, stack_paths=paths)


def halves(row):
    return Integer(1 + row % 2)


def coordinates(row, step=100):
    found = Coordinate(x=100 + step * row, y=7)
    found.setMicName(f"mic {row % 3}.mrc")
    return found


def change(particles, label, values):
    """Set a value of some items, by id, in the set's file."""
    with closing(sqlite3.connect(particles.getFileName())) as connection:
        column = connection.execute("SELECT column_name FROM Classes WHERE label_property = ?", (label,)).fetchone()[0]
        connection.executemany(f"UPDATE Objects SET {column} = ? WHERE id = ?", [(value, item) for item, value in values.items()])
        connection.commit()
    return reopened(particles.getFileName())


def one(sentences, phrase):
    """That exactly one of the sentences has the phrase, and which."""
    found = [sentence for sentence in sentences if phrase in sentence]
    assert len(found) == 1, sentences
    return found[0]


def test_a_sound_set_gives_nothing_but_its_size(table, tmp_path):
    particles = new_set(tmp_path / "p.sqlite", table, _rlnRandomSubset=halves, _coordinate=coordinates)
    assert particle_problems(particles, half_sets=True) == []
    assert [sentence.split(":")[0] for sentence in particle_warnings(particles)] == [f"{COUNT} particles are few"]


def test_the_last_particle_is_looked_at_as_the_first(table, tmp_path):
    particles = new_set(tmp_path / "p.sqlite", table)
    mirrored = "[[-1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]"
    particles = change(particles, "_transform._matrix", {COUNT: mirrored, COUNT - 1: "[[1,0],[0,NaN]]"})
    assert "2 of 120 particles have no pose" in one(particle_problems(particles), f"first: id {COUNT - 1}")
    forget(particles, "_ctfModel._defocusV", COUNT)
    assert f"1 of 120 particles have no CTF (first: id {COUNT})" in one(particle_problems(particles), "no CTF")


def test_what_was_found_is_forgotten_when_the_file_changes(table, tmp_path):
    particles = new_set(tmp_path / "p.sqlite", table)
    assert particle_problems(particles) == [] == particle_problems(particles)
    forget(particles, "_transform._matrix", 7)
    assert "first: id 7" in one(particle_problems(particles), "no pose")


def test_half_sets(table, tmp_path):
    particles = new_set(tmp_path / "one.sqlite", table, _rlnRandomSubset=lambda row: Integer(2))
    assert "All particles are of half set 2" in one(particle_problems(particles, half_sets=True), "other one is empty")
    assert particle_problems(particles) == []
    uneven = new_set(tmp_path / "uneven.sqlite", table, _rlnRandomSubset=lambda row: Integer(1 + (row % 4 == 0)))
    assert "90 and 30 particles" in one(particle_warnings(uneven), "differ in size")
    some = change(uneven, "_rlnRandomSubset", dict.fromkeys(range(1, 11)))
    assert "10 of 120 particles carry no half set" in one(particle_warnings(some), "will be drawn")
    assert not any("half set" in sentence for sentence in particle_warnings(some, half_sets=False))


def test_particles_that_stand_in_both_halves(table, tmp_path):
    particles = new_set(tmp_path / "p.sqlite", table, _rlnRandomSubset=halves, _coordinate=coordinates)
    repeated = change(particles, "_index", {2: 1, 4: 3})
    assert "2 pictures" in one(particle_warnings(repeated), "stand in both half sets (first: id 1)")
    twice = new_set(tmp_path / "twice.sqlite", replace(table, shifts_angs=0 * table.shifts_angs), _rlnRandomSubset=halves,
                    _coordinate=lambda row: coordinates(row // 6 * 6, 100))  # fmt: skip
    assert "picked twice" in one(particle_warnings(twice), "within 5 Å")
    same_half = change(new_set(tmp_path / "same.sqlite", table, _rlnRandomSubset=halves), "_index", {3: 1})
    assert "1 pictures stand in more than one particle" in one(particle_warnings(same_half), "more than one")


def test_ctfs_out_of_the_ordinary(table, tmp_path):
    particles = new_set(tmp_path / "p.sqlite", table, _rlnRandomSubset=halves)
    high = change(particles, "_ctfModel._defocusU", dict.fromkeys((80, 90), 150_000.0))
    assert "2 of 120 particles have a defocus" in one(particle_warnings(high), "first: 8")
    assert "id 80" in one(particle_warnings(high), "have a defocus")
    odd = change(particles, "_acquisition._voltage", dict.fromkeys(range(1, COUNT + 1), 30.0))
    assert "30 kV" in one(particle_warnings(odd), "unusual")


def test_stacks_that_are_not_what_the_set_says(copied, tmp_path):
    particles = new_set(tmp_path / "p.sqlite", copied, _rlnRandomSubset=halves)
    last = copied.stack_paths[2]
    whole = Path(last).read_bytes()
    with mrcfile.open(last, "r+") as stack:
        stack.voxel_size = 3.0
    assert "1 of 3 stacks" in one(particle_warnings(particles), "name another one") and particle_problems(particles) == []
    Path(last).write_bytes(whole[:-10])
    assert "2.mrcs was cut off" in one(particle_problems(particles), "shorter")
    mrcfile.write(last, np.zeros((40, 16, 16), np.float32), overwrite=True)
    assert "16 x 16 px, the set's are 32 px" in one(particle_problems(particles), "2.mrcs")
    mrcfile.write(last, np.zeros((20, BOX, BOX), np.float32), overwrite=True)
    assert "holds 20 pictures, and number 40 is asked for" in one(particle_problems(particles), "2.mrcs")
    Path(last).write_bytes(b"no stack")
    assert "2.mrcs is no MRC stack" in one(particle_problems(particles), "2.mrcs")
    os.remove(last)
    assert "1 of 3 stacks are not there" in one(particle_problems(particles), "2.mrcs")


def test_matrices_are_those_that_json_gives(table, tmp_path):
    rng = np.random.default_rng(0)
    texts = [str(matrix.tolist()) for matrix in rng.normal(size=(50, 4, 4)) * 10.0 ** rng.integers(-9, 9, (50, 4, 4))]
    np.testing.assert_array_equal(matrices_of(texts), read_matrices(texts))
    found = matrices_of([texts[0], None, "[[1, 2], [3"])
    np.testing.assert_array_equal(found[0], read_matrices(texts)[0])
    assert np.isnan(found[1:]).all()
