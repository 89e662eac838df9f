"""Values of a protocol's parameters: from the text of a command line, and as text."""

import os
import re
from typing import Any

from pyworkflow.object import PointerList
from pyworkflow.protocol import params

from cryopares_core.errors import UserError

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
PATTERN = re.compile(r"[*?\[{#]")  # marks of a name that stands for several files


def convert(param: Any, text: str) -> Any:
    """The text as the parameter's type, checked with the parameter's own validators."""
    value = _typed(param, text)
    wrong = param.validate(value)
    if wrong:
        raise UserError(f"{param.label.get()} {' and '.join(str(message).strip(' .') for message in wrong)}.")
    return value


def _typed(param: Any, text: str) -> Any:
    if isinstance(param, params.BooleanParam):
        return _boolean(text)
    if isinstance(param, params.EnumParam):
        return _choice(text, list(param.choices))
    if isinstance(param, (params.IntParam, params.FloatParam)):
        return _number(param, text)
    return _path(text) if isinstance(param, params.PathParam) and text else text


def _boolean(text: str) -> bool:
    if text.lower() not in YES + NO:
        raise UserError(f"'{text}' is neither yes nor no.")
    return text.lower() in YES


def _choice(text: str, choices: Any) -> int:
    """The number of the choice, which is given by its text or by its number, from 0."""
    texts = [str(choice).lower() for choice in choices]
    if text.lower() in texts:
        return texts.index(text.lower())
    if text.isdigit() and int(text) < len(texts):
        return int(text)
    raise UserError(f"'{text}' is not a choice; there are {', '.join(map(str, choices))}.")


def _number(param: Any, text: str) -> Any:
    if text == "":
        return None
    whole = isinstance(param, params.IntParam)
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise UserError(f"'{text}' is not a {'whole ' if whole else ''}number.") from None


def _path(text: str) -> str:
    """The path made absolute; one that stands for a file must exist."""
    path = os.path.abspath(os.path.expanduser(text))
    if not PATTERN.search(path) and not os.path.exists(path):
        raise UserError(f"there is no {path}.")
    return path


def same(attribute: Any, value: Any) -> bool:
    """Whether the attribute of a run has this value; inputs as (run, name of the output)."""
    if isinstance(attribute, PointerList) or attribute.isPointer():
        pointers = list(attribute) if isinstance(attribute, PointerList) else [attribute] if attribute.hasValue() else []
        now = [(pointer.getObjValue().getObjId(), pointer.getExtended()) for pointer in pointers]
        return now == [(run.getObjId(), output) for run, output in value]
    return attribute.get() == value


def shown(param: Any, attribute: Any) -> str:
    """The value of an attribute of a run as a user would write it."""
    if isinstance(attribute, PointerList):
        return ", ".join(_pointed(pointer) for pointer in attribute)
    if attribute.isPointer():
        return _pointed(attribute)
    return saved_as(param, attribute.get())


def saved_as(param: Any, value: Any) -> str:
    """A value as a workflow file has it, as a user would write it."""
    if isinstance(param, params.EnumParam) and isinstance(value, int) and value < len(param.choices):
        return str(param.choices[value])
    return "" if value is None else str(value)


def _pointed(pointer: Any) -> str:
    target = pointer.getObjValue()
    return "" if target is None else f"{target.getObjId()}.{pointer.getExtended()}"
