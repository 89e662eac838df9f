"""Damaged STAR files and stacks, drawn at random: a clear error or a right answer, whatever is done to them.

`tests/fuzz_seeds` holds files that once ended otherwise, each read as it is and damaged further.
"""

import linecache
import struct
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryopares_core.errors import UserError
from cryopares_core.particles.columns import LARGEST, LARGEST_ANGLE_DEG
from cryopares_core.particles.mrc import read_header
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.startext import read_tables
from cryopares_core.particles.table import ParticleTable

SEEDS = sorted(path for path in (Path(__file__).parent / "fuzz_seeds").iterdir())
FUZZ = settings(max_examples=250, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

OPTICS = """# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
 "group 1" 1 300.000000 2.700000 0.100000 2.000000 8
 group2 2 200.000000 2.000000 0.070000 2.000000 8

"""
PARTICLES = """data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnAngleRot #3
_rlnAngleTilt #4
_rlnAnglePsi #5
_rlnOriginXAngst #6
_rlnOriginYAngst #7
_rlnRandomSubset #8
_rlnDefocusU #9
_rlnDefocusV #10
_rlnDefocusAngle #11
_rlnPhaseShift #12
"""
ROW = "%06d@a.mrcs  %d  %10.4f %10.4f %10.4f  %8.3f %8.3f\t%d  %12.2f %12.2f %8.2f 0.000000 \n"
BEFORE_OPTICS = PARTICLES.replace("data_particles", "data_").replace("OpticsGroup", "Voltage").replace("Angst", "")
BEFORE_OPTICS += "_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnMagnification\n_rlnDetectorPixelSize\n"


def star_texts() -> list[bytes]:
    """A file of RELION 3.1, one with quotes in all rows, one of RELION 3.0 with Windows line ends, and the seeds."""
    rng = np.random.default_rng(0)
    values = [[*rng.uniform(-180, 180, 3), *rng.uniform(-5, 5, 2), i % 2 + 1, 12000, 11000, 30] for i in range(6)]
    new = OPTICS + PARTICLES + "".join(ROW % (i + 1, i % 2 + 1, *values[i]) for i in range(6)) + "\n"
    old = BEFORE_OPTICS + "".join((ROW % (i + 1, 300, *values[i]))[:-1] + "2.7 0.1 10000 2.0\n" for i in range(6))
    quoted = new.replace("PhaseShift #12\n", "PhaseShift #12\n_rlnMicrographName #13\n").replace("00 \n", '00 "a micrograph.mrc"\n')
    return [
        new.encode(),
        quoted.encode(),
        old.replace("\n", "\r\n").encode(),
        *(seed.read_bytes() for seed in SEEDS if seed.suffix == ".star"),
    ]


def stacks() -> list[bytes]:
    """Stacks of all types of pixels in both byte orders, and the seeds."""
    return [
        one_stack(mode, dtype, order) for mode, dtype in ((0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")) for order in "<>"
    ] + [seed.read_bytes() for seed in SEEDS if seed.suffix == ".mrcs"]


def one_stack(mode: int, dtype: str, order: str, n: int = 6, side: int = 8) -> bytes:
    header = bytearray(1024)
    struct.pack_into(f"{order}10i3f", header, 0, side, side, n, mode, 0, 0, 0, side, side, n, 2.0 * side, 2.0 * side, 2.0 * n)
    struct.pack_into(f"{order}3f3i", header, 52, 90, 90, 90, 1, 2, 3)
    struct.pack_into(f"{order}i", header, 108, 20140)
    header[208:216] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(header) + np.arange(n * side * side).astype(order + dtype).tobytes()


WORDS = """nan -inf 1e400 1e30 -999.0 0 -1 0x10 1_0 1,5 ١ é None <NA> True " ' # "" @ data_ data_particles loop_ _rlnImageName
2@a.mrcs 000009@a.mrcs 0@a.mrcs 1@../a.mrcs""".encode().split()
WORDS += [b"9" * 400, b"1@" + b"x" * 5000, b"1" + b"0" * 30 + b"@a.mrcs", b"\ndata_optics\n", b"\nloop_\n", b"\n_rlnAngleRot 5\n"]
WORDS += [b"\r", b"\n", b"\t", b" ", b"' '", b"\0", b"\x0c", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8"]
DAMAGES = ("flip", "cut", "drop", "double", "word", "line", "swap")


def damage(draw, text: bytes) -> bytes:
    """One change: of some bytes, of a line, or of a word."""
    kind, place = draw(st.sampled_from(DAMAGES)), draw(st.integers(0, max(0, len(text) - 1)))
    if kind == "flip":
        return text[:place] + bytes([draw(st.integers(0, 255))]) + text[place + 1 :]
    if kind == "cut":
        return text[:place]
    if kind in ("drop", "double"):
        part = text[place : place + draw(st.integers(1, 100))]
        return text[:place] + (part + part if kind == "double" else b"") + text[place + len(part) :]
    if kind == "word":
        start = text.rfind(b" ", 0, place) + 1
        stop = place if draw(st.booleans()) else max(start, text.find(b" ", place))
        return text[:start] + draw(st.sampled_from(WORDS)) + text[stop:]
    lines = text.split(b"\n")
    one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    if kind == "line":
        lines[one:one] = [lines[other]] * draw(st.integers(1, 3))
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


@st.composite
def damaged(draw, texts: list[bytes]) -> bytes:
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        text = damage(draw, text)
    return text


FIELDS = [0, 4, 8, 12, 16, 28, 40, 44, 88, 92, 96, 104, 208, 212]  # sides, mode, cell, symmetry, extended header, stamp
NUMBERS = [0, 1, -1, 2, 3, 4, 6, 8, 12, 101, 256, 1024, 32_768, 65_536, 2**24, 2**31 - 1, -(2**31)]
NUMBERS += [0x44444444, 0x7F800000, 0x7FC00000]  # letters, infinity, not a number


@st.composite
def damaged_stacks(draw) -> bytes:
    raw = bytearray(draw(st.sampled_from(stacks())))
    for _ in range(draw(st.integers(1, 3))):
        field, order = draw(st.sampled_from(FIELDS)), draw(st.sampled_from("<>"))
        if field + 4 <= len(raw):
            struct.pack_into(f"{order}i", raw, field, draw(st.sampled_from(NUMBERS) | st.integers(-(2**31), 2**31 - 1)))
    return bytes(raw[: draw(st.just(len(raw)) | st.integers(0, len(raw)))])


def check_star(folder: Path, text: bytes) -> ParticleTable | None:
    """What holds of any file: errors that name it, or numbers that make sense and rows that come back when they are written."""
    path = folder / "damaged.star"
    path.write_bytes(text)
    check_both_ways_agree(path)
    for check_files in (True, False):
        try:
            table, _ = read_particles(path, split_halfs=check_files, check_files=check_files)
        except UserError as error:
            assert error.problems and all(str(path) in problem for problem in error.problems), error.problems
            continue
        check_table(table)
        table.write_star(folder / "again.star")
        again, _ = read_particles(folder / "again.star", split_halfs=check_files, check_files=check_files)
        assert again.particles.equals(table.particles)
        assert list(again.particles.columns) == list(table.particles.columns)
        assert (again.optics is None) == (table.optics is None) or again.optics.equals(table.optics)
        for name in ("eulers_deg", "shifts_angs", "pixel_size_angs", "image_size_px", "half_set", "slice_id"):
            np.testing.assert_array_equal(getattr(again, name), getattr(table, name))


def check_both_ways_agree(path: Path) -> None:
    """Line by line and many rows at once: the same tables, or the same error."""
    found = []
    for chunk_bytes in (1, 100, 1 << 20):
        try:
            tables = read_tables(path, chunk_bytes)
        except UserError as error:
            found.append(str(error))
        else:
            cells = [[list(table.column(place)) for place in range(len(table.columns))] for table in tables if table.parts]
            found.append([[(t.name, t.columns, t.lines.tolist(), t.counts.tolist()) for t in tables], cells])
    assert found[0] == found[1] == found[2]


def check_table(table: ParticleTable) -> None:
    ctf = np.stack([getattr(table.ctf, name) for name in vars(table.ctf)])
    assert np.isfinite(ctf).all() and (np.abs(ctf) <= LARGEST).all()
    assert (np.abs(table.eulers_deg) <= LARGEST_ANGLE_DEG).all()
    assert np.isfinite(table.shifts_angs).all() and (np.abs(table.shifts_angs) <= 1000 * LARGEST).all()
    assert ((table.pixel_size_angs >= 0.01) & (table.pixel_size_angs <= 1000)).all()
    assert np.isin(table.half_set, (1, 2)).all() and (table.slice_id >= 0).all() and (table.image_size_px >= 0).all()
    assert len(table) == len(table.particles) == len(table.stack_id) > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.mrcs").write_bytes(one_stack(2, "f4", "<"))
    return folder


@pytest.mark.parametrize("place", range(len(star_texts())))
def test_files_as_they_are(folder, place):
    check_star(folder, star_texts()[place])


@FUZZ
@given(text=damaged(star_texts()))
def test_damaged_star_files(folder, text):
    check_star(folder, text)


def check_stack(path: Path, raw: bytes) -> None:
    """An error that names the stack, or the pictures that mrcfile finds."""
    path.write_bytes(raw)
    try:
        header = read_header(str(path))
    except UserError as error:
        assert str(path) in str(error)
        return
    assert 0 <= header.pixel_size_angs < np.inf
    assert header.offset + header.n * header.bytes_per_picture <= len(raw)
    ours = np.frombuffer(raw, header.dtype, header.n * header.ny * header.nx, header.offset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            theirs = mrcfile.read(path)
    except (ValueError, RuntimeWarning):
        return
    assert theirs.size == ours.size and theirs.shape[-1] == header.nx
    np.testing.assert_array_equal(theirs.ravel(), ours)


@FUZZ
@given(raw=damaged_stacks())
def test_damaged_stacks(folder, raw):
    check_stack(folder / "damaged.mrcs", raw)


# A word that begins with _ would be the name of a column to both.
CHARACTERS = st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\"'#_\x7f\x85\xa0\xad")
CELLS = st.text(CHARACTERS, min_size=1, max_size=12)
SPACES = st.sampled_from([" ", "  ", "\t", " \t "])


@FUZZ
@given(data=st.data())
def test_tables_are_those_of_starfile(folder, data):
    """Tables of any words, with blank lines, comments and all kinds of spaces between."""
    columns = data.draw(st.lists(st.from_regex(r"rln[A-Z][a-z]{1,8}", fullmatch=True), min_size=2, max_size=6, unique=True))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=8))
    lines = ["data_some", "", "loop_", *(f"_{name} #{place}" for place, name in enumerate(columns, start=1))]
    for row in rows:
        lines.append(data.draw(SPACES).join(["", *row, ""]))
        lines += data.draw(st.lists(st.sampled_from(["", "# comment", "  "]), max_size=1))
    path = folder / "table.star"
    path.write_text(data.draw(st.sampled_from(["\n", "\r\n"])).join(lines) + "\n", newline="", encoding="utf-8")
    linecache.clearcache()  # starfile would read the file of a moment ago, which has the same name
    theirs = starfile.read(path, parse_as_string=columns).fillna("nan")
    (ours,) = read_tables(path, data.draw(st.sampled_from([1, 20, 1 << 20])))
    assert ours.columns == columns
    for place, name in enumerate(columns):
        assert ["nan" if cell in ("NaN", "<NA>") else cell for cell in ours.column(place)] == theirs[name].tolist()
