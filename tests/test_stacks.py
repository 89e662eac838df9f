"""Reading MRC stacks: modes, byte orders, extended headers, damage, few open files. mrcfile is the reference."""

import resource
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest

from cryopares_core.errors import UserError
from cryopares_core.particles.mrc import read_header
from cryopares_core.particles.stacks import read_images

DTYPES = ["int8", "int16", "float32", "uint16", "float16"]


def write_stack(path, pictures, extended=0):
    with mrcfile.new(path, overwrite=True) as stack:
        stack.set_data(pictures)
        stack.set_image_stack()
        stack.voxel_size = 1.5
        if extended:
            stack.set_extended_header(np.zeros(extended, dtype="V1"))
    return path


def table(paths, stack_id, slice_id):
    return SimpleNamespace(stack_paths=[str(path) for path in paths], stack_id=np.array(stack_id), slice_id=np.array(slice_id))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extended", [0, 320])
def test_all_modes_are_read(tmp_path, dtype, extended):
    pictures = (np.random.default_rng(0).normal(size=(5, 6, 6)) * 20).astype(dtype)
    path = write_stack(tmp_path / "a.mrcs", pictures, extended)
    header = read_header(str(path))
    assert (header.n, header.ny, header.nx, header.offset) == (5, 6, 6, 1024 + extended)
    assert header.pixel_size_angs == pytest.approx(1.5)
    found = read_images(table([path], [0] * 4, [4, 0, 1, 0]), np.arange(4))
    np.testing.assert_array_equal(found, pictures[[4, 0, 1, 0]].astype(np.float32))


@pytest.mark.parametrize("dtype", ["int16", "float32", "float16"])
def test_foreign_byte_order_is_read(tmp_path, dtype):
    pictures = np.arange(2 * 4 * 4).reshape(2, 4, 4).astype(dtype)
    path = write_stack(tmp_path / "a.mrcs", pictures)
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw[:1024], "<i4").copy().byteswap()
    swapped = bytearray(header.tobytes())
    swapped[212:214] = b"\x11\x11"
    swapped[208:212] = raw[208:212]
    path.write_bytes(bytes(swapped) + pictures.astype(np.dtype(dtype).newbyteorder(">")).tobytes())
    np.testing.assert_array_equal(read_images(table([path], [0, 0], [0, 1]), np.arange(2)), pictures.astype(np.float32))


def test_damaged_stacks_are_named(tmp_path):
    path = write_stack(tmp_path / "cut.mrcs", np.zeros((4, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"cut\.mrcs: the file was cut off.*2 whole pictures of 4"):
        read_header(str(path))
    (tmp_path / "text.mrcs").write_text("no stack" * 200)
    with pytest.raises(UserError, match="not an MRC stack"):
        read_header(str(tmp_path / "text.mrcs"))
    (tmp_path / "short.mrcs").write_bytes(b"x")
    with pytest.raises(UserError, match="only 1 bytes"):
        read_header(str(tmp_path / "short.mrcs"))
    with pytest.raises(UserError, match="No such file"):
        read_header(str(tmp_path / "absent.mrcs"))


def test_many_stacks_need_few_open_files(tmp_path):
    paths = [write_stack(tmp_path / f"{i}.mrcs", np.full((1, 2, 2), i, np.float32)) for i in range(300)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        found = read_images(table(paths, np.arange(300), np.zeros(300, int)), np.arange(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(found[:, 0, 0], np.arange(300))
