"""STAR files of good and bad kinds: what is read is right, what is refused is told in full."""

import mrcfile
import numpy as np
import pytest
import starfile

from cryopares_core.errors import UserError
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import AS_TAKEN, FLIPPED, MULTIPLIED


@pytest.fixture
def tiny(shared):
    return shared / "data" / "tiny_32"


def test_values_are_those_of_starfile(tiny):
    table, warnings = read_particles(tiny / "particles.star")
    blocks = starfile.read(tiny / "particles.star")
    rows = blocks["particles"].merge(blocks["optics"], how="left", on="rlnOpticsGroup")
    assert warnings == []
    np.testing.assert_allclose(table.eulers_deg, rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]])
    np.testing.assert_allclose(table.shifts_angs, rows[["rlnOriginXAngst", "rlnOriginYAngst"]])
    for name, column in (
        ("defocus_u_angs", "rlnDefocusU"),
        ("defocus_v_angs", "rlnDefocusV"),
        ("defocus_angle_deg", "rlnDefocusAngle"),
        ("voltage_kv", "rlnVoltage"),
        ("cs_mm", "rlnSphericalAberration"),
        ("amplitude_contrast", "rlnAmplitudeContrast"),
    ):
        np.testing.assert_allclose(getattr(table.ctf, name), rows[column])
    np.testing.assert_array_equal(table.half_set, rows["rlnRandomSubset"])
    np.testing.assert_array_equal(table.image_size_px, 32)
    chosen = np.array([199, 0, 80, 81, 5])
    for index, picture in zip(chosen, read_images(table, chosen), strict=True):
        number, name = rows["rlnImageName"][index].split("@")
        np.testing.assert_array_equal(picture, mrcfile.read(tiny / name)[int(number) - 1])


def test_relion_30_gives_the_same_numbers(shared, tiny):
    new, _ = read_particles(tiny / "particles.star")
    old, warnings = read_particles(shared / "data/star_bad/relion30_equivalent.star", tiny)
    assert warnings == [] and old.optics is None
    np.testing.assert_allclose(old.shifts_angs, new.shifts_angs, atol=1e-4)
    np.testing.assert_allclose(old.pixel_size_angs, new.pixel_size_angs)
    np.testing.assert_allclose(old.ctf.voltage_kv, new.ctf.voltage_kv)
    commented, _ = read_particles(shared / "data/star_bad/relion31_commented.star", tiny)
    np.testing.assert_array_equal(commented.eulers_deg, new.eulers_deg)


REFUSED = {
    "empty_particles": ["no particles in it (0 rows)"],
    "garbage": ["not a STAR file"],
    "index_beyond_stack": ["row 4 (line 46)", "rlnImageName = '000999@Particles/particles_001.mrcs'", "only 80 pictures"],
    "index_zero": ["row 4 (line 46)", "there is no picture 0"],
    "nan_angle": ["row 6 (line 48)", "rlnAngleTilt", "not a number"],
    "no_angles": ["rlnAngleRot, rlnAngleTilt, rlnAnglePsi", "3D refinement"],
    "no_ctf": ["rlnDefocusU, rlnDefocusV, rlnDefocusAngle", "ctf_correction=none"],
    "only_half1": ["no particles in half set 2", "--split_halfs False"],
    "optics_group_undefined": ["row 6 (line 48)", "rlnOpticsGroup = '7'", "known: 1, 2"],
    "stack_missing": ["row 4 (line 46)", "rlnImageName = '000001@Particles/absent.mrcs'", "no such stack", "--particles_dir"],
    "truncated_last_row": ["row 200 (line 242)", "ends after 4 of 20 columns"],
    "wrong_image_size": ["rlnImageSize is 48 px", "are 32 px"],
    "zero_bytes": ["the file is empty"],
}
WARNED = {
    "two_pixel_sizes": "several pixel sizes (10, 11 Å)",
    "no_subset_no_origin": "no half sets (rlnRandomSubset): drawn at random",
    "duplicate_image": "more than one row: 1 (first: 000001@Particles/particles_001.mrcs)",
}


@pytest.mark.parametrize("name, phrases", REFUSED.items())
def test_bad_files_are_refused(shared, tiny, name, phrases):
    path = shared / "data/star_bad" / f"{name}.star"
    with pytest.raises(UserError) as caught:
        read_particles(path, tiny)
    message = str(caught.value)
    for phrase in (str(path), *phrases):
        assert phrase in message


@pytest.mark.parametrize("name, phrase", WARNED.items())
def test_suspicious_files_are_read_with_a_warning(shared, tiny, name, phrase):
    table, warnings = read_particles(shared / "data/star_bad" / f"{name}.star", tiny)
    assert len(table) == 200
    assert any(phrase in warning for warning in warnings)


def test_only_one_half_is_enough_without_half_sets(shared, tiny):
    assert len(read_particles(shared / "data/star_bad/only_half1.star", tiny, split_halfs=False)[0]) == 100


def test_all_problems_of_all_files_are_told_at_once(shared, tiny):
    bad = shared / "data/star_bad"
    with pytest.raises(UserError) as caught:
        read_particles([bad / "nan_angle.star", bad / "no_ctf.star", bad / "absent.star"], tiny)
    assert len(caught.value.problems) == 3


GOOD_ODD = {
    "M_particles_sub10": (10, 3.9),
    "relion31.6opticsgroups": (139, 1.25),
    "relion5": (17, 0.89),
    "relion_style_particles": (106, 0.725),
    "sample_particles_relion30": (17, 1.338),
    "sample_particles_relion31": (17, 1.4),
    "sample_relion_symmetry_group_D4": (17, 1.338),
    "sta_testing": (219, 1.96),
    "test": (452, 1.911),
    "test_starfile": (3, 12.0),
}


# What the refusal says; files that are not named here hold no particles at all.
BAD_ODD = dict.fromkeys(
    [
        "add_obj_sub_id",
        "false_orig",
        "one_loop",
        "relion_3.0",
        "relion_3.1_optics2",
        "relion_4.0",
        "relion_test",
        "relion_test2",
        "rln3.1_data_style",
        "run_it025_data",
        "run_it050_data",
        "single_line_end_of_multiblock",
        "single_line_middle_of_multiblock",
        "true_all_orig",
        "true_orig",
    ],
    "sub-tomograms or tilt series",
) | {
    "ribosome_4ug0_particles": "no column rlnAngleRot, rlnAngleTilt: the poses are not known",
    "sample": "row 4, line 20: 5 values for 4 columns",
    "sample_incomplete_ctf_params": "no column rlnVoltage",
    "sample_relion_one_image": "no particles in half set 1",
}


def test_odd_files_are_read_or_refused(shared):
    for path in sorted((shared / "data/star_odd").glob("*.star")):
        if path.stem in GOOD_ODD:
            table, _ = read_particles(path, check_files=False)
            assert (len(table), pytest.approx(table.pixel_size_angs[0], abs=1e-3)) == GOOD_ODD[path.stem], path
        else:
            with pytest.raises(UserError, match=BAD_ODD.get(path.stem, "no block has the column rlnImageName")):
                read_particles(path, check_files=False)


def test_cut_off_files_never_crash(tiny, tmp_path):
    text = (tiny / "particles.star").read_bytes()
    for length in np.random.default_rng(0).integers(0, len(text), 25):
        path = tmp_path / "cut.star"
        path.write_bytes(text[:length])
        try:
            read_particles(path, tiny)
        except UserError as error:
            assert all("cut.star" in problem for problem in error.problems)


def test_what_was_not_touched_is_written_again(tiny, tmp_path):
    table, _ = read_particles(tiny / "particles.star")
    table.subset(np.array([3, 1])).write_star(tmp_path / "some.star", {"rlnParticleFigureOfMerit": [0.5, 0.25]})
    again, _ = read_particles(tmp_path / "some.star", tiny, split_halfs=False)
    assert list(again.particles.columns) == [*table.particles.columns, "rlnParticleFigureOfMerit"]
    for column in table.particles.columns:
        assert again.particles[column].tolist() == table.particles[column].iloc[[3, 1]].tolist()
    assert again.optics.equals(table.optics)
    assert not list(tmp_path.glob(".*"))


def test_several_files_keep_their_optics_apart(tiny):
    one, _ = read_particles(tiny / "particles.star")
    two, _ = read_particles([tiny / "particles.star", tiny / "particles_labelnoise.star"])
    assert len(two) == 400 and len(two.optics) == 4
    assert set(two.particles["rlnOpticsGroup"][200:]) == {"3", "4"}
    np.testing.assert_array_equal(two.ctf.voltage_kv[200:], one.ctf.voltage_kv)
    np.testing.assert_array_equal(read_images(two, np.array([250])), read_images(one, np.array([50])))


def test_what_was_done_to_pictures_is_known_by_optics_group(tiny, tmp_path):
    table, _ = read_particles(tiny / "particles.star")
    group = table.particles["rlnOpticsGroup"].astype(str).to_numpy()

    def read(**flags):
        starfile.write({"optics": table.optics.assign(**flags), "particles": table.particles}, tmp_path / "x.star", overwrite=True)
        return read_particles(tmp_path / "x.star", tiny)[0].ctf.corrected

    assert not read().any()
    flipped, multiplied = {"rlnCtfDataArePhaseFlipped": [1, 0]}, {"rlnCtfDataAreCtfPremultiplied": [0, 1]}
    assert (read(**flipped) == np.where(group == "1", FLIPPED, AS_TAKEN)).all()
    assert (read(**flipped, **multiplied) == np.where(group == "1", FLIPPED, MULTIPLIED)).all()
    with pytest.raises(UserError, match=r"rlnCtfDataArePhaseFlipped = '7'.*between 0 and 1"):
        read(rlnCtfDataArePhaseFlipped=[7, 0])


def test_one_optics_group_needs_no_column(tiny, tmp_path):
    table, _ = read_particles(tiny / "particles.star")
    rows = table.particles.drop(columns="rlnOpticsGroup")
    for optics, good in ((table.optics.iloc[:1], True), (table.optics, False), (table.optics.iloc[:0], False)):
        starfile.write({"optics": optics, "particles": rows}, tmp_path / "x.star", overwrite=True)
        if good:
            np.testing.assert_array_equal(read_particles(tmp_path / "x.star", tiny)[0].ctf.voltage_kv, 300.0)
        else:
            with pytest.raises(UserError, match="no column rlnOpticsGroup"):
                read_particles(tmp_path / "x.star", tiny)


def test_equal_angles_are_suspicious(tiny, tmp_path):
    table, _ = read_particles(tiny / "particles.star")
    same = table.particles.assign(rlnAngleRot="1.0", rlnAngleTilt="2.0", rlnAnglePsi="3.0")
    starfile.write({"optics": table.optics, "particles": same}, tmp_path / "x.star", overwrite=True)
    assert any("same angles" in warning for warning in read_particles(tmp_path / "x.star", tiny)[1])


def test_ctfs_that_are_not_needed_are_read_where_they_are_there(shared, tiny):
    table, _ = read_particles(tiny / "particles.star", needs_ctf=False)
    assert table.ctf.voltage_kv.min() >= 200
    table, _ = read_particles(shared / "data/star_bad/no_ctf.star", tiny, needs_ctf=False)
    assert table.ctf.voltage_kv.max() == 0
