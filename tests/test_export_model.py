"""A model as one file: there and back, used as it is, and files that are damaged, newer, or not what they say."""

import hashlib
import json
import pickle
import random
import stat
import zipfile

import numpy as np
import pytest
import starfile
import torch
from untrained import SAMPLING, SIZE, add_validation, untrained_run

from cryopares_core.commands.export_model import main
from cryopares_core.commands.infer import main as infer
from cryopares_core.errors import UserError
from cryopares_core.inference.exchange import FORMAT, export_model, import_model
from cryopares_core.model.storage import load_model
from cryopares_core.training.calibrate import read_calibration
from cryopares_core.training.calibration import Signs
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with models, maps and validation of both half sets."""
    run = untrained_run(tmp_path_factory.mktemp("run"))
    add_validation(run)
    return run


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    """The run as one file."""
    path = tmp_path_factory.mktemp("file") / "model.cryopares"
    assert main(["--checkpoint_dir", str(run), "--out", str(path)]) == 0
    return path


def rewritten(file, path, change=None, extra=(), compression=zipfile.ZIP_STORED, manifest=None):
    """A copy whose entries were changed: `change` takes a name and its content, `extra` adds entries, `manifest` edits the list."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "manifest.json" and manifest:
                values = json.loads(content)
                manifest(values)
                content = json.dumps(values).encode()
            target.writestr(entry.filename, change(entry.filename, content) if change else content)
        for name, content in extra:
            target.writestr(name, content)
    return path


def test_there_and_back(run, file, tmp_path):
    assert main(["--import", str(file), "--out_dir", str(tmp_path / "model")]) == 0
    for half in ("half1", "half2"):
        for name in ("model.safetensors", "model.json", "starting_map.mrc"):
            assert (tmp_path / "model" / half / name).read_bytes() == (run / half / name).read_bytes()
        signs = Signs(np.linspace(0.01, 0.2, 20), np.random.default_rng(0).uniform(0, 180, (20, 3)))
        expected = read_calibration(run / half, "C1")(signs)
        np.testing.assert_allclose(read_calibration(tmp_path / "model" / half, "C1")(signs), expected, atol=1e-3)
        assert torch.equal(load_model(tmp_path / "model" / half)[0].so3conv.theta, load_model(run / half)[0].so3conv.theta)
    assert export_model(tmp_path / "model", tmp_path / "again.cryopares") == ["half1", "half2"]
    assert (tmp_path / "again.cryopares").read_bytes() == file.read_bytes()


def test_it_tells_what_it_is(file):
    with zipfile.ZipFile(file) as archive:
        text = archive.read("README.txt").decode()
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    for told in ("Symmetry: C1", "10 Å/px", "32 px", "trained on 90 particles", "calibrated on 200 particles", "cryopares_infer"):
        assert told in text


def test_inference_takes_the_file_itself(run, file, tmp_path):
    settings = SimulationSettings(n_particles=20, snr=5.0, seed=3)
    star = simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, tmp_path, settings)
    rows = []
    for number, source in enumerate((run, file)):
        out = tmp_path / str(number)
        words = ["--particles_star_fname", str(star), "--checkpoint_dir", str(source), "--results_dir", str(out)]
        assert infer([*words, "--n_threads", "1", "--accelerator", "cpu"]) == 0
        rows.append(starfile.read(out / "particles.star")["particles"])
    columns = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnParticleFigureOfMerit"]
    np.testing.assert_allclose(rows[0][columns], rows[1][columns], atol=2e-3)


def test_one_half_set_alone(run, tmp_path):
    assert export_model(run / "half2", tmp_path / "one.cryopares") == ["half2"]
    assert [path.name for path in import_model(tmp_path / "one.cryopares", tmp_path / "one").glob("half*")] == ["half2"]


FACTS = {"bytes": 1, "sha256": ""}
OUTSIDE = ("../evil.txt", "/tmp/evil.txt", "half1/../../evil", "half1\\model.json", "half1/evil.pkl", "half3/model.json", "half1/")


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_leaves_the_folder(file, tmp_path, name):
    bad = rewritten(file, tmp_path / "bad.cryopares", extra=[(name, b"x")])
    with pytest.raises(UserError, match="does not belong in a model"):
        import_model(bad, tmp_path / "deep" / "model")
    listed = rewritten(
        file,
        tmp_path / "bad2.cryopares",
        extra=[(name, b"x")],
        manifest=lambda v: v["files"].update({name: {"bytes": 1, "sha256": ""}}),
    )
    with pytest.raises(UserError, match="does not belong in a model"):
        import_model(listed, tmp_path / "deep" / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.cryopares", "bad2.cryopares", "deep"}
    assert not list((tmp_path / "deep").iterdir())


def flipped(name, content):
    return content[:-1] + bytes([content[-1] ^ 1]) if name == "half1/model.safetensors" else content


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"change": flipped}, "its checksum is another"),
        ({"change": lambda name, content: content[:-4] if name == "half2/starting_map.mrc" else content}, "bytes instead of"),
        ({"compression": zipfile.ZIP_DEFLATED}, "is compressed|no manifest"),
        ({"manifest": lambda values: values.update(format=FORMAT + 1)}, "is newer than this version knows"),
        ({"manifest": lambda values: values.update(kind="cake")}, "its kind is cake"),
        ({"manifest": lambda values: values.pop("files")}, "no CryoPARES model"),
        ({"manifest": lambda values: values["files"].pop("half1/model.json")}, "does not belong"),
        (
            {"manifest": lambda values: values["files"].update({"half1/views.csv": FACTS})},
            "which is not in it",
        ),
        ({"extra": [("half1/model.json", b"{}")]}, "holds a name twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_wrong_with_a_file_is_told(file, tmp_path, how, told):
    bad = rewritten(file, tmp_path / "bad.cryopares", **how)
    with pytest.raises(UserError, match=told) as error:
        import_model(bad, tmp_path / "model")
    assert str(bad) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.cryopares"]


def with_list_mended(file, path, name, content):
    """A file whose list agrees with a changed entry."""
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return rewritten(
        file,
        path,
        change=lambda own, old: content if own == name else old,
        manifest=lambda values: values["files"].update({name: facts}),
    )


class Evil:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return open, ("was_here", "w")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("half1/model.safetensors", pickle.dumps(Evil()), "damaged"),
        ("half1/model.json", b"{}", "cannot be read as a CryoPARES model"),
        ("half1/model.json", b"not json", "cannot be read as a CryoPARES model"),
        ("half2/calibration.json", b'{"format": 99}', "newer than this version"),
        ("half2/starting_map.mrc", b"no map", "not a readable MRC file"),
    ],
)
def test_contents_that_are_no_model_are_refused(file, tmp_path, monkeypatch, name, content, told):
    monkeypatch.chdir(tmp_path)
    bad = with_list_mended(file, tmp_path / "bad.cryopares", name, content)
    with pytest.raises(UserError, match=told):
        import_model(bad, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.cryopares"]


def test_a_link_is_no_file(file, tmp_path):
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "bad.cryopares", "w") as target:
        for entry in source.infolist():
            copy = zipfile.ZipInfo(entry.filename)
            if entry.filename == "half1/model.json":
                copy.external_attr = (stat.S_IFLNK | 0o777) << 16
            target.writestr(copy, source.read(entry))
    with pytest.raises(UserError, match="is not a plain file"):
        import_model(tmp_path / "bad.cryopares", tmp_path / "model")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_file_that_was_cut_off(file, tmp_path, keep):
    content = file.read_bytes()
    bad = tmp_path / "bad.cryopares"
    bad.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(UserError, match=r"bad\.cryopares: (damaged|no CryoPARES model)"):
        import_model(bad, tmp_path / "model")


def test_whatever_bytes_change_it_is_refused_or_the_same_model(file, tmp_path):
    """Mostly in the archive's own lists, at its end."""
    draw, whole = random.Random(1), file.read_bytes()
    refused = 0
    for number in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            content[-1 - int(draw.random() ** 2 * 3000)] = draw.randrange(256)
        (tmp_path / "bad.cryopares").write_bytes(content)
        try:
            folder = import_model(tmp_path / "bad.cryopares", tmp_path / str(number))
            assert (folder / "half1" / "model.json").read_bytes() in whole
        except UserError:
            refused += 1
    assert refused > 40


def test_the_command_tells_what_is_wrong(run, file, tmp_path, capsys):
    def told(*words):
        assert main(list(map(str, words))) == 2
        return capsys.readouterr().err

    assert "there already" in told("--checkpoint_dir", run, "--out", file)
    assert main(["--checkpoint_dir", str(run), "--out", str(file), "--overwrite"]) == 0
    assert "there already" in told("--import", file, "--out_dir", tmp_path)
    assert "--import needs --out_dir" in told("--import", file)
    assert "there is no such file" in told("--import", tmp_path / "none", "--out_dir", tmp_path / "x")
    assert "--checkpoint_dir is missing" in told("--out", tmp_path / "x")
    assert "no trained model is there" in told("--checkpoint_dir", tmp_path, "--out", tmp_path / "x")
    assert "Give another --out" in told("--checkpoint_dir", run, "--out", tmp_path / "no" / "such" / "folder")
    assert not list(tmp_path.iterdir())
