"""STAR files of many rows: what starfile reads from them, cell for cell, and back again to the letter."""

import numpy as np
import pandas as pd
import pytest
import starfile

from cryopares_core.particles.star import read_particles
from cryopares_core.particles.startext import CHUNK_BYTES, read_tables

ROWS = 30_000
HEAD = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
_rlnImageSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
1 1.05 256 300 2.7 0.1
2 1.06 256 200 2.7 0.1

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnRandomSubset #3
_rlnAngleRot #4
_rlnAngleTilt #5
_rlnAnglePsi #6
_rlnOriginXAngst #7
_rlnOriginYAngst #8
_rlnDefocusU #9
_rlnDefocusV #10
_rlnDefocusAngle #11
_rlnMicrographName #12
_rlnLogLikeliContribution #13
"""
ROW = "%06d@Extract/job%03d/FoilHole_%d.mrcs %d %d %10.6f %10.6f %10.6f\t%.3f %.3f %12.6f %12.6f %9.6f %s %12e\n"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Most rows are plain; here and there are quotes, comments and blank lines, so that both ways of reading take part."""
    draws, path = np.random.default_rng(0), tmp_path_factory.mktemp("large") / "particles.star"
    lines = [HEAD]
    for place in range(ROWS):
        odd = place % 9_000 == 8_999
        name = '"a name with spaces.mrc"' if odd else f"MotionCorr/FoilHole_{place // 100}_Data.mrc"
        numbers = (*draws.uniform(-180, 180, 3), *draws.uniform(-5, 5, 2), *draws.uniform(8_000, 20_000, 2), draws.uniform(0, 180))
        lines.append(ROW % (place % 100 + 1, place % 7, place // 100, place % 2 + 1, place % 2 + 1, *numbers, name, place / 7))
        if odd:
            lines.append("# a comment\n\n")
    path.write_text("".join(lines))
    assert path.stat().st_size > 4 * CHUNK_BYTES
    return path


def starfiles_frames(path):
    names = [name for table in read_tables(path) for name in table.columns]
    frames = starfile.read(path, always_dict=True, parse_as_string=names)
    return {name: frame for name, frame in frames.items() if hasattr(frame, "columns")}


def assert_same_cells(frame, expected):
    assert list(frame.columns) == list(expected.columns)
    for name in expected.columns:
        assert frame[name].tolist() == expected[name].tolist(), name


def test_cells_are_those_of_starfile(large):
    table, _ = read_particles(large, check_files=False)
    expected = starfiles_frames(large)
    assert len(table) == ROWS
    assert_same_cells(table.particles, expected["particles"])
    assert_same_cells(table.optics, expected["optics"])
    np.testing.assert_array_equal(table.eulers_deg[:, 0], expected["particles"]["rlnAngleRot"].astype(float))


def test_what_is_written_is_what_was_read(large, tmp_path):
    table, _ = read_particles(large, check_files=False)
    chosen = np.random.default_rng(1).permutation(ROWS)[: ROWS // 2]
    some = table.subset(chosen)
    some.with_poses(some.eulers_deg + 1).write_star(tmp_path / "some.star")
    found = starfiles_frames(tmp_path / "some.star")["particles"]
    kept = [name for name in found.columns if not name.startswith("rlnAngle")]
    assert_same_cells(found[kept], table.particles.iloc[chosen][kept])
    np.testing.assert_allclose(found["rlnAnglePsi"].astype(float), some.eulers_deg[:, 2] + 1, atol=1e-6)


def test_files_of_other_programs_are_read_as_starfile_reads_them(shared):
    compared = 0
    for path in sorted((shared / "data" / "star_odd").glob("*.star")):
        tables = {table.name: table for table in read_tables(path) if len(table.lines) and table.columns}
        names = [name for table in tables.values() for name in table.columns]
        try:
            blocks = starfile.read(path, always_dict=True, parse_as_string=names)
        except pd.errors.ParserError:  # rows that do not fit their columns, for us to refuse in words
            continue
        for name, block in blocks.items():
            if name not in tables:
                continue
            expected = {column: [cell] for column, cell in block.items()} if isinstance(block, dict) else block.to_dict("list")
            table = tables[name]
            assert table.columns == list(expected), path
            for place, column in enumerate(table.columns):
                # What starfile takes for missing is "nan" there.
                ours = ["nan" if cell in ("NaN", "<NA>") else cell for cell in table.column(place)]
                assert ours == [str(cell) for cell in expected[column]], (path, column)
            compared += 1
    assert compared > 20
