"""A workflow saved as JSON: reading it, loading it into a project once, and finding it there again."""

import hashlib
import json
import os
from typing import Any, Dict, List, Optional

from pyworkflow import Config
from pyworkflow.project import Manager, Project

from cryopares_core.errors import UserError

RECORD = "cryopares_workflow.json"  # in the project's folder: which runs came from which workflow
Entry = Dict[str, Any]  # one protocol of the JSON file


def read_workflow(path: str) -> List[Entry]:
    """The protocols of a workflow file in the order of the file; their classes are installed and their ids differ."""
    entries = _parse(path)
    classes = Config.getDomain().getProtocols()
    problems = [_missing_class(entry) for entry in entries if entry["object.className"] not in classes]
    ids = [str(entry["object.id"]) for entry in entries]
    problems += [f"{path}: the id {i} stands more than once." for i in sorted({i for i in ids if ids.count(i) > 1})]
    if problems:
        raise UserError(problems)
    return entries


def _parse(path: str) -> List[Entry]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        entries = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file.") from None
    except json.JSONDecodeError as error:
        if path.endswith(".template"):
            raise UserError(f"{path}: is a template with places to fill in; use 'scipion template {path}'.") from None
        raise UserError(f"{path}: is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
    if not isinstance(entries, list) or not entries or not all(_is_protocol(entry) for entry in entries):
        raise UserError(f"{path}: is not a workflow: export one from the window of a Scipion project.")
    return entries


def _is_protocol(entry: Any) -> bool:
    return isinstance(entry, dict) and {"object.className", "object.id"} <= set(entry)


def _missing_class(entry: Entry) -> str:
    label = entry.get("object.label") or str(entry["object.id"])
    plugin, dash, _ = label.partition(" - ")
    verb = "update" if plugin in Config.getDomain().getPlugins() else "install"
    remedy = f"{verb} the plugin scipion-em-{plugin}" if dash else "'scipion protocols' lists what is there"
    return f"'{label}' is of the class {entry['object.className']}, which is not installed: {remedy}."


def open_project(name: str) -> Optional[Project]:
    """The project of that name, its folder made the working folder; None where there is none."""
    if name != Project.cleanProjectName(name):
        raise UserError(f"--project {name}: a name has letters, digits, - and _ only, such as {Project.cleanProjectName(name)}.")
    manager = Manager()
    if not manager.hasProject(name):
        return None
    try:
        project = manager.loadProject(name)
    except Exception as error:
        raise UserError(f"The project {name} at {manager.getProjectPath(name)} cannot be opened: {error}.") from None
    if project.openedAsReadOnly():
        raise UserError(f"The project {name} at {project.path} is read-only.")
    return project


def create_project(name: str) -> Project:
    """A new project, its folder made the working folder."""
    project = Manager().createProject(name)
    os.chdir(project.path)
    return project


def find_loaded(project: Project, entries: List[Entry]) -> Dict[str, Any]:
    """The runs, by id in the workflow, that an earlier command loaded from the same workflow; empty where there are none."""
    ids = _read_record(project).get(_fingerprint(entries), {})
    runs = {run.getObjId(): run for run in project.getRuns()}
    gone = [key for key, run_id in ids.items() if run_id not in runs]
    if gone:
        raise UserError(
            f"The project no longer has the runs made from protocol {', '.join(gone)} of the workflow: add --new to load it again."
        )
    return {key: runs[run_id] for key, run_id in ids.items()}


def load(project: Project, path: str, entries: List[Entry]) -> Dict[str, Any]:
    """Loads the workflow into the project, notes it in the project's record, and returns the runs by id in the workflow."""
    try:
        runs = project.loadProtocols(path)
    except Exception as error:  # whatever a plugin stumbles over in its part of the file
        raise UserError(f"{path}: Scipion cannot load it ({type(error).__name__}: {error}); export it again.") from None
    for entry in entries:  # Scipion drops the names that the user gave
        run = runs[entry["object.id"]]
        run.setObjLabel(entry.get("object.label") or run.getObjLabel())
        project.mapper.store(run)
    project.mapper.commit()
    record = _read_record(project)
    record[_fingerprint(entries)] = {str(key): run.getObjId() for key, run in runs.items()}
    _write_record(project, record)
    return find_loaded(project, entries)


def _fingerprint(entries: List[Entry]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def _read_record(project: Project) -> Dict[str, Dict[str, int]]:
    try:
        with open(os.path.join(project.path, RECORD), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError:
        raise UserError(f"{os.path.join(project.path, RECORD)}: is damaged; remove it to load the workflow again.") from None


def _write_record(project: Project, record: Dict[str, Dict[str, int]]) -> None:
    path = os.path.join(project.path, RECORD)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
    os.replace(path + ".new", path)
