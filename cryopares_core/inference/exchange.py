"""One file that holds the models of a run, to be used elsewhere: a zip archive, not compressed, of weights, cards, calibrations
and maps.

Nothing in it is ever run. What comes out of a file has the names, sizes and checksums of its list, and nothing else comes out.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

import cryopares_core
from cryopares_core.config.infer_arguments import MODELS
from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path, temporary_name
from cryopares_core.inference.models import load_models, model_folders
from cryopares_core.inference.readme import readme
from cryopares_core.training.calibrate import read_calibration
from cryopares_core.training.calibration import FILE as CALIBRATION
from cryopares_core.training.calibration import calibration_text, model_checksum
from cryopares_core.volumes.picture_fit import FINE_MAP, MAP, fit_to_own_map

FORMAT, KIND, MANIFEST, README = 1, "CryoPARES model", "manifest.json", "README.txt"
WANTED = ("model.safetensors", "model.json")
WELCOME = (CALIBRATION, MAP, FINE_MAP, "views.csv")
ALLOWED = {README, *(f"{model}/{name}" for model in MODELS for name in WANTED + WELCOME)}
LARGEST_MANIFEST = 1_000_000
PORTION = 1 << 20
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same models make the same file
# What the reader of archives raises where bytes are not what they should be.
DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError, struct.error)
AGAIN = "Copy the file again, or have it exported again."


def export_model(checkpoint_dir: Path, out: Path) -> list[str]:
    """Write the models of a run's folder to one file, all or nothing; returns their names.

    Raises
    ------
    UserError : there is no model, or one is damaged
    """
    folders = model_folders(checkpoint_dir)
    models = load_models(folders, set(folders))  # what cannot be used is not handed on
    contents: dict[str, bytes | Path] = {README: readme(models).encode()}
    for name, folder in folders.items():
        calibration = read_calibration(folder, models[name].card.symmetry)
        files: dict[str, bytes | Path] = {file: folder / file for file in (*WANTED, *WELCOME) if (folder / file).is_file()}
        files.pop(CALIBRATION, None)  # it may be that of another model
        if calibration is not None:
            files[CALIBRATION] = calibration_text(calibration, model_checksum(folder)).encode()
        contents |= {f"{name}/{file}": files[file] for file in sorted(files)}
    try:
        with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            _write(archive, contents)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}. Give another --out.") from error
    return list(folders)


def _write(archive: zipfile.ZipFile, contents: dict[str, bytes | Path]) -> None:
    listed = {}
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        archive.writestr(_entry(name), data)
    manifest = {"kind": KIND, "format": FORMAT, "cryopares": cryopares_core.__version__, "files": listed}
    archive.writestr(_entry(MANIFEST), json.dumps(manifest, indent=1))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, LONG_AGO)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


@contextmanager
def opened(checkpoint_dir: str) -> Iterator[Path]:
    """The folder of the models within the `with` block: the given one, or one that a .cryopares file is unpacked into."""
    path = Path(checkpoint_dir)
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cryopares_model_") as folder:
        yield import_model(path, Path(folder) / "version_0")


def import_model(path: Path, out_dir: Path) -> Path:
    """Unpack a file into a folder that is not there yet, all or nothing, and return that folder.

    Raises
    ------
    UserError : it is no file of ours, damaged, of a newer format, or holds what it should not; or the folder is there
    """
    if out_dir.exists():
        raise UserError(f"{out_dir} is there already. Give another --out_dir, or remove it.")
    temporary = temporary_name(out_dir)
    try:
        temporary.mkdir(parents=True)
        with zipfile.ZipFile(path) as archive:
            _unpack(path, archive, temporary)
        _try_out(path, temporary)
        temporary.rename(out_dir)
    except DAMAGE as error:
        raise UserError(f"{path}: damaged, or no CryoPARES model ({error}). {AGAIN}") from error
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def _unpack(path: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    entries = archive.infolist()
    listed = _manifest(path, archive, entries)
    problems = [_refusal(entry, listed) for entry in entries if entry.filename != MANIFEST]
    names = [entry.filename for entry in entries]
    problems += [f"it lists {name}, which is not in it" for name in listed if name not in names]
    problems += ["it holds a name twice"] if len(set(names)) < len(names) else []
    told = [f"{path}: {problem}. {AGAIN}" for problem in problems if problem]
    if told:
        raise UserError(told)
    for name, facts in listed.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with archive.open(name) as source, open(folder / name, "wb") as target:
            if _copied(source, target) != facts["sha256"]:
                raise UserError(f"{path}: {name} is damaged: its checksum is another. {AGAIN}")


def _manifest(path: Path, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> dict[str, dict[str, Any]]:
    """The files that should be there, by name."""
    found = next((entry for entry in entries if entry.filename == MANIFEST), None)
    try:
        if found is None or found.file_size > LARGEST_MANIFEST or found.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"no {MANIFEST}")
        manifest = json.loads(archive.read(found))
        if manifest["kind"] != KIND:
            raise ValueError(f"its kind is {manifest['kind']}")
        if int(manifest["format"]) > FORMAT:
            raise UserError(f"{path}: format {manifest['format']} is newer than this version knows ({FORMAT}). Update CryoPARES.")
        return {
            str(name): {"bytes": int(facts["bytes"]), "sha256": str(facts["sha256"])} for name, facts in manifest["files"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: no CryoPARES model ({error}). Give a file that cryopares_export_model wrote.") from error


def _refusal(entry: zipfile.ZipInfo, listed: dict[str, dict[str, Any]]) -> str:
    """Why an entry is not unpacked, or nothing. Only known names pass, so that no path leads out of the folder."""
    name, mode = entry.filename, entry.external_attr >> 16
    if name not in ALLOWED or name not in listed:
        return f"it holds {name!r}, which does not belong in a model"
    if stat.S_ISLNK(mode) or entry.is_dir():
        return f"{name} is not a plain file"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
        return f"{name} is compressed or encrypted, which models are not"
    if entry.file_size != listed[name]["bytes"]:
        return f"{name} has {entry.file_size:,} bytes instead of {listed[name]['bytes']:,}"
    return ""


def _copied(source: Any, target: BinaryIO) -> str:
    """Copy, and return the checksum."""
    digest = hashlib.sha256()
    while portion := source.read(PORTION):
        digest.update(portion)
        target.write(portion)
    return digest.hexdigest()


def _try_out(path: Path, folder: Path) -> None:
    """Load all that was unpacked, as it will be later."""
    try:
        for own in model_folders(folder).values():
            model = load_models({own.name: own}, {own.name})[own.name]
            fit_to_own_map(own, model.card, torch.device("cpu"))
    except UserError as error:
        raise UserError([problem.replace(str(folder), str(path)) for problem in error.problems]) from error
