"""Damaged files, on particles of our own: every problem is told with its place, and nothing ends in a traceback."""

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from cryopares_core.errors import UserError
from cryopares_core.particles.star import read_particles

COUNT = 40


@pytest.fixture
def particles(tmp_path):
    """A STAR file of 40 particles in 4 stacks; the last column is one that training doesn't need."""
    rng = np.random.default_rng(0)
    (tmp_path / "Extract").mkdir()
    for stack in range(4):
        with mrcfile.new(tmp_path / f"Extract/{stack}.mrcs") as file:
            file.set_data(rng.normal(size=(10, 8, 8)).astype(np.float32))
            file.voxel_size = 2.0
    optics = {"rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
    optics |= {"rlnImagePixelSize": [2.0], "rlnImageSize": [8]}
    rows = {"rlnImageName": [f"{i % 10 + 1:06d}@Extract/{i // 10}.mrcs" for i in range(COUNT)], "rlnOpticsGroup": 1}
    rows |= {f"rlnAngle{name}": rng.uniform(0, 180, COUNT) for name in ("Rot", "Tilt", "Psi")}
    rows |= {"rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, "rlnRandomSubset": np.arange(COUNT) % 2 + 1}
    rows |= {"rlnDefocusU": 1e4, "rlnDefocusV": 1e4, "rlnDefocusAngle": 0.0, "rlnCtfFigureOfMerit": 0.5}
    starfile.write({"optics": pd.DataFrame(optics), "particles": pd.DataFrame(rows)}, tmp_path / "particles.star")
    return tmp_path / "particles.star"


def change(path, old, new):
    """Replace the first place of some text; gives the number of its line."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


def problems(path, **options):
    with pytest.raises(UserError) as caught:
        read_particles(path, **options)
    return caught.value.problems


def test_the_undamaged_file_is_fine(particles):
    table, warnings = read_particles(particles)
    assert (len(table), len(table.stack_paths), warnings) == (COUNT, 4, [])


def test_nan_in_a_column_that_is_not_needed_is_kept(particles, tmp_path):
    lines = particles.read_text().rstrip().split("\n")
    lines[-1] = lines[-1].rsplit("\t", 1)[0] + "\tnan"
    particles.write_text("\n".join(lines) + "\n")
    table, _ = read_particles(particles)
    table.write_star(tmp_path / "again.star")
    pd.testing.assert_frame_equal(read_particles(tmp_path / "again.star")[0].particles, table.particles)
    assert table.particles["rlnCtfFigureOfMerit"].iloc[-1] == "nan"


def test_lines_are_right_in_spite_of_comments_between_rows(particles):
    change(particles, "000004@Extract/0", "# a comment\n\n000004@Extract/0")
    line = change(particles, "000008@Extract/1.mrcs", "000088@Extract/1.mrcs")
    assert problems(particles) == [
        f"{particles}, row 18 (line {line}), rlnImageName = '000088@Extract/1.mrcs': the stack has only 10 pictures. "
        "Mend the name, or copy the stack again."
    ]


def test_a_row_with_too_many_values_is_named(particles):
    line = change(particles, "000004@Extract/0.mrcs", "000004@Extract/0.mrcs stray")
    assert f"row 4, line {line}: 13 values for 12 columns" in problems(particles)[0]


def test_a_mended_file_is_read_anew(particles):
    change(particles, "000004@Extract/0.mrcs", "000004@Extract/0.mrcs stray")
    problems(particles)
    change(particles, " stray", "")
    assert len(read_particles(particles)[0]) == COUNT


def test_repeated_columns_and_optics_groups_are_refused(particles):
    text = particles.read_text()
    change(particles, "_rlnAngleRot", "_rlnAngleTilt")
    assert "more than one column rlnAngleTilt" in problems(particles)[0]
    particles.write_text(text)
    blocks = starfile.read(particles)
    blocks["optics"] = pd.concat([blocks["optics"]] * 2)
    starfile.write(blocks, particles)
    assert "more than one row of rlnOpticsGroup 1" in problems(particles)[0]


@pytest.mark.parametrize("depth, refused", [(0.0, False), (3.5, True)])
def test_a_depth_of_zero_is_that_of_single_particles(particles, depth, refused):
    blocks = starfile.read(particles)
    blocks["particles"]["rlnOriginZAngst"] = depth
    starfile.write(blocks, particles, overwrite=True)
    if refused:
        assert "sub-tomograms" in problems(particles)[0]
    else:
        assert len(read_particles(particles)[0]) == COUNT


def test_many_problems_of_one_kind_are_counted(particles):
    blocks = starfile.read(particles)
    blocks["particles"]["rlnAngleTilt"] = -999.0
    blocks["particles"]["rlnImageName"] = [f"1@Elsewhere/{i}.mrcs" for i in range(COUNT)]
    starfile.write(blocks, particles)
    told = problems(particles)
    assert len(told) == 12
    assert "35 more stacks were not found; 35 rows" in told[5]
    assert "the same in 35 more rows (no pose is known)" in told[11]


def test_damaged_and_oblong_stacks_are_told_with_their_rows(particles, tmp_path):
    stack = tmp_path / "Extract/1.mrcs"
    stack.write_bytes(stack.read_bytes()[:-100])
    with mrcfile.new(tmp_path / "Extract/2.mrcs", overwrite=True) as file:
        file.set_data(np.zeros((10, 8, 6), np.float32))
    told = problems(particles)
    assert "row 11 (line" in told[0] and "1.mrcs: the file was cut off" in told[0] and "9 whole pictures of 10" in told[0]
    assert "row 21 (line" in told[1] and "pictures are 6 x 8 px. Extract square ones." in told[1]


def test_another_pixel_size_in_the_header_is_suspicious(particles, tmp_path):
    for size, count in ((2.01, 0), (2.1, 1), (1.0, 0), (0.0, 0)):
        with mrcfile.open(tmp_path / "Extract/3.mrcs", "r+") as file:
            file.voxel_size = size
        assert len(read_particles(particles)[1]) == count


def test_half_sets_that_were_drawn_are_written(particles, tmp_path):
    blocks = starfile.read(particles)
    del blocks["particles"]["rlnRandomSubset"]
    starfile.write(blocks, particles)
    table, warnings = read_particles(particles)
    assert "drawn at random" in warnings[0]
    table.write_star(tmp_path / "again.star")
    again, warnings = read_particles(tmp_path / "again.star")
    assert warnings == [] and np.array_equal(again.half_set, table.half_set)


def test_files_with_different_columns_are_joined(particles, tmp_path):
    blocks = starfile.read(particles)
    blocks["particles"] = blocks["particles"].drop(columns="rlnCtfFigureOfMerit").assign(rlnMicrographName="m.mrc")
    starfile.write(blocks, tmp_path / "other.star")
    table, _ = read_particles([particles, tmp_path / "other.star"])
    assert set(table.particles["rlnMicrographName"]) == {"None", "m.mrc"}
    assert set(table.particles["rlnCtfFigureOfMerit"][COUNT:]) == {"0"}


def test_folders_must_match_the_files(particles):
    assert "2 folders are given for 1 STAR files" in problems(particles, particles_dir=["a", "b"])[0]


def test_random_damage_never_crashes(particles):
    text, rng = particles.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(text)
        start = rng.integers(0, len(text))
        del damaged[start : start + rng.integers(1, 200)]
        for place in rng.integers(0, len(damaged), rng.integers(0, 8)):
            damaged[place] = rng.integers(0, 128)
        particles.write_bytes(damaged)
        try:
            read_particles(particles)
        except UserError as error:
            assert all(str(particles) in problem for problem in error.problems)


@pytest.mark.parametrize(
    ("name", "nothing", "something"),
    [
        ("rlnBeamTiltX", 0.0, 0.3),
        ("rlnOddZernike", "[0,0,0]", "[0,0.01,0]"),
        ("rlnEvenZernike", "[0.0,0e-3]", "[0.0,-2e-3]"),
        ("rlnMagMat00", 1.0, 1.002),
        ("rlnMagMat10", 0.0, 0.001),
    ],
)
def test_aberrations_that_are_not_corrected_are_told_once(particles, name, nothing, something):
    content = starfile.read(particles)
    for value, told in ((nothing, False), (something, True)):
        content["optics"][name] = value
        starfile.write(content, particles, overwrite=True)
        warnings = read_particles(particles)[1]
        assert [f"{name} is not corrected for" in text for text in warnings] == [True] * told
