"""What `cryopares_workflow` does: project, workflow, settings, run."""

import logging
import os
import sys
from argparse import Namespace
from typing import Any, Dict, List, Optional, TextIO

from pyworkflow import Config

from cryopares_core.errors import UserError
from cryopares_plugin.headless import workflow
from cryopares_plugin.headless.progress import Progress
from cryopares_plugin.headless.run import RunFailed, Stopped, StopRequest, check_ready, in_order, run_all
from cryopares_plugin.headless.settings import Candidate, apply_settings, read_settings, settable_parameters
from cryopares_plugin.headless.values import saved_as, shown

FAILED = 1
FROM_SIGNAL = 128


def run(options: Namespace) -> int:
    """Runs the command; returns its exit code, having told in one sentence each what is wrong."""
    logging.getLogger().addHandler(logging.NullHandler())  # what Scipion says to developers
    try:
        stop = StopRequest()
        _run(options, Progress(sys.stdout), stop)
    except UserError as error:
        sys.stderr.write("\n".join(error.problems) + "\n")
        return error.exit_code
    except RunFailed as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except Stopped as signal:
        return FROM_SIGNAL + signal.number
    return 0


def _run(options: Namespace, progress: Progress, stop: StopRequest) -> None:
    path = os.path.abspath(options.workflow)
    if not options.project and not options.list:
        raise UserError("--project NAME is missing: the Scipion project to make or to go on with.")
    Config.getDomain().getPlugins()
    entries = workflow.read_workflow(path)
    here = os.getcwd()
    project = workflow.open_project(options.project) if options.project else None
    os.chdir(here)  # paths on the command line start here, and not in the project
    runs = workflow.find_loaded(project, entries) if project and not options.new else {}
    candidates = _candidates(entries, runs, project)
    settings = read_settings(options.settings, candidates)
    if options.list:
        return _show(entries, candidates, runs, sys.stdout)
    stop.check()
    if project is None:
        project = workflow.create_project(options.project)
    os.chdir(project.path)
    progress.tell(f"Project {project.path}")
    runs = runs or workflow.load(project, path, entries)
    apply_settings(settings, runs)
    if options.queue:
        _send_to_queue(options.queue, runs)
    for one in runs.values():
        project.mapper.store(one)
    project.mapper.commit()
    ids = [runs[key].getObjId() for key in in_order(runs)]
    check_ready(project, ids)
    run_all(project, ids, progress, stop)


def _candidates(entries: List[workflow.Entry], runs: Dict[str, Any], project: Optional[Any]) -> List[Candidate]:
    """Protocols of the workflow, as they stand in the project where they are there, then other runs of the project."""
    classes = Config.getDomain().getProtocols()
    inside = []
    for entry in entries:
        key, name = str(entry["object.id"]), entry["object.className"]
        label = entry.get("object.label") or name
        inside.append(Candidate(key, runs.get(key) or classes[name](), label, True))
    ours = {one.getObjId() for one in runs.values()}
    others = [one for one in (project.getRuns() if project else []) if one.getObjId() not in ours]
    return inside + [Candidate(one.strId(), one, one.getObjLabel(), False) for one in others]


def _send_to_queue(name: str, runs: Dict[str, Any]) -> None:
    """Has the runs that are still to run submitted whole; the queue's fields stay as the workflow has them, else as hosts.conf."""
    for one in runs.values():
        queues = one.getHostConfig().queueSystem.queues if one.getHostConfig().queueSystem.hasName() else {}
        if name not in queues:
            known = f"the queues {', '.join(queues)}" if queues else "no queue"
            raise UserError(f"--queue {name}: {Config.SCIPION_HOSTS} has {known}.")
        if one.isFinished() or one.isActive():
            continue
        chosen, fields = one.getQueueParams()
        if not one.useQueue() or chosen != name:
            fields = {field[0]: field[1] for field in queues[name]}
        one._useQueue.set(True)
        one.setQueueParams([name, {"QUEUE_FOR_JOBS": "N", **fields}])


def _show(entries: List[workflow.Entry], candidates: List[Candidate], runs: Dict[str, Any], stream: TextIO) -> None:
    """The protocols, and what can be set in them: value now, then what it is."""
    for entry, candidate in zip(entries, candidates):
        protocol = candidate.protocol
        state = f"  {protocol.getStatus()}" if candidate.key in runs else ""
        stream.write(f"{candidate.key}  {candidate.label}  ({protocol.getClassName()}){state}\n")
        for name, param in settable_parameters(protocol):
            value = shown(param, getattr(protocol, name)) if candidate.key in runs else saved_as(param, entry.get(name))
            about = f"one of {', '.join(map(str, param.choices))}" if hasattr(param, "choices") else str(param.label.get() or "")
            stream.write(f"    {name} = {value}".ljust(44) + f"  {about}\n")
