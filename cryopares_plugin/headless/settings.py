"""`protocol.parameter=value` from the command line: found, checked against the protocol's form, and set."""

import difflib
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Tuple

from pyworkflow.object import Pointer, PointerList
from pyworkflow.protocol import params

from cryopares_core.errors import UserError
from cryopares_plugin.headless.values import convert, same, shown

NOT_SETTINGS = {"runName", "runMode"}  # the label and Scipion's own switch between going on and starting anew


@dataclass(frozen=True)
class Candidate:
    """A protocol that a name on the command line can mean: one of the workflow (`key` is its id there), or a run of the project."""

    key: str
    protocol: Any
    label: str
    in_workflow: bool

    def names(self) -> List[str]:
        """What it is called: its run name, with and without the plugin's, and its class."""
        return [self.label, self.label.partition(" - ")[2] or self.label, self.protocol.getClassName()]


@dataclass(frozen=True)
class Setting:
    """A value for a parameter; that of an input is a list of (protocol, name of the output)."""

    target: Candidate
    parameter: str
    value: Any

    @property
    def is_input(self) -> bool:
        """Whether the value names outputs."""
        return isinstance(self.target.protocol.getParam(self.parameter), params.PointerParam)


def read_settings(texts: List[str], candidates: List[Candidate]) -> List[Setting]:
    """All settings, or all that is wrong with them, as a UserError."""
    settings, problems = [], []
    for text in texts:
        try:
            settings.append(_read_setting(text, candidates))
        except UserError as error:
            problems += [f"{text}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)
    return settings


def _read_setting(text: str, candidates: List[Candidate]) -> Setting:
    left, equals, value = text.partition("=")
    name, dot, parameter = left.rpartition(".")
    if not (equals and dot and name):
        raise UserError("is not of the form protocol.parameter=value.")
    target = _find(name, [c for c in candidates if c.in_workflow])
    parameter, param = _find_parameter(parameter, target)
    if isinstance(param, params.PointerParam):
        return Setting(
            target, parameter, [_read_output(part.strip(), param, candidates) for part in value.split(",") if part.strip()]
        )
    return Setting(target, parameter, convert(param, value))


def _find_parameter(name: str, target: Candidate) -> Tuple[str, Any]:
    settable = dict(settable_parameters(target.protocol))
    found = [known for known in settable if known == name] or [known for known in settable if known.lower() == name.lower()]
    if not found:
        raise UserError(f"{target.label} has no parameter '{name}'.{_suggestion(name, settable)}")
    return found[0], settable[found[0]]


def _read_output(text: str, param: Any, candidates: List[Candidate]) -> Tuple[Candidate, str]:
    """`PROTOCOL.output`, of a class that the input takes."""
    name, _, output = text.rpartition(".")
    if not name:
        raise UserError("an input is given as protocol.output, such as importparticles.outputParticles.")
    in_workflow = [c for c in candidates if c.in_workflow and _matches(name, c)]
    source = _find(name, in_workflow or candidates)
    outputs = dict(source.protocol.iterOutputAttributes(includePossible=True))
    if outputs and output not in outputs:
        raise UserError(f"{source.label} has no output '{output}'; it has {', '.join(outputs)}.")
    made = outputs.get(output)
    made = made if isinstance(made, type) else type(made)
    wanted = [name.strip() for name in str(param.pointerClass).split(",")]
    if outputs and not {c.__name__ for c in made.__mro__} & set(wanted):
        raise UserError(f"{source.label}.{output} is a {made.__name__}, and the input takes {' or '.join(wanted)}.")
    return source, output


def settable_parameters(protocol: Any) -> Iterable[Tuple[str, Any]]:
    """Names and definitions of a form's fields that hold a value."""
    for name, param in protocol.getDefinition().iterParams():
        if name not in NOT_SETTINGS and param.paramClass is not None and not isinstance(param, params.LabelParam):
            yield name, param


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _matches(name: str, candidate: Candidate) -> bool:
    return name == candidate.key or _plain(name) in map(_plain, candidate.names())


def _find(name: str, candidates: List[Candidate]) -> Candidate:
    exact = [c for c in candidates if c.key == name]
    found = exact or [c for c in candidates if _matches(name, c)]
    if len(found) > 1:
        raise UserError(f"'{name}' means several protocols: use an id, {' or '.join(f'{c.key} ({c.label})' for c in found)}.")
    if not found:
        raise UserError(f"there is no protocol '{name}'.{_suggestion(name, [n for c in candidates for n in c.names()])}")
    return found[0]


def _suggestion(name: str, known: Iterable[str]) -> str:
    by_plain = {_plain(one): one for one in known}
    near = difflib.get_close_matches(_plain(name), by_plain, n=3, cutoff=0.6)
    known_names = [by_plain[one] for one in near] or list(by_plain.values())
    start = " Did you mean " if near else " There are "
    return start + ", ".join(known_names[:12]) + ("?" if near else "." if len(known_names) <= 12 else " and others: see --list.")


def apply_settings(settings: List[Setting], runs: Dict[str, Any]) -> None:
    """Sets the values in the runs, by id in the workflow, without storing them; those of finished runs cannot change."""
    problems = [_finished(s, runs) for s in settings if _is_late(s, runs)]
    if problems:
        raise UserError(problems)
    for setting in settings:
        _set(getattr(runs[setting.target.key], setting.parameter), _resolved(setting, runs))


def _is_late(setting: Setting, runs: Dict[str, Any]) -> bool:
    run = runs[setting.target.key]
    return (run.isFinished() or run.isActive()) and not same(getattr(run, setting.parameter), _resolved(setting, runs))


def _finished(setting: Setting, runs: Dict[str, Any]) -> str:
    run = runs[setting.target.key]
    now = shown(run.getParam(setting.parameter), getattr(run, setting.parameter))
    return (
        f"{run.getObjLabel()} is {run.getStatus()} with {setting.parameter} = {now}; "
        "to run it with another value, take another --project, or add --new to load the workflow again."
    )


def _resolved(setting: Setting, runs: Dict[str, Any]) -> Any:
    """The value, inputs as (run, name of the output)."""
    if not setting.is_input:
        return setting.value
    return [(runs[source.key] if source.in_workflow else source.protocol, output) for source, output in setting.value]


def _set(attribute: Any, value: Any) -> None:
    if isinstance(attribute, PointerList):
        attribute.clear()
        for run, output in value:
            attribute.append(Pointer(run, extended=output))
    elif attribute.isPointer():
        run, output = value[0] if value else (None, None)
        attribute.set(run)
        attribute.setExtended(output)
    else:
        attribute.set(value)
