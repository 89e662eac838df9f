"""What a parameter is: a dataclass field that carries its help, unit and allowed values."""

import dataclasses
import math
import types
from dataclasses import dataclass, field
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

_RULES = "rules"
_KIND_NAMES = {int: "whole number", float: "number", bool: "True or False", str: "text"}


@dataclass(frozen=True)
class Rules:
    """What a field's type cannot say. `above` is an open lower bound, `low` and `high` are closed ones.

    `label` is a short name for forms; parameters that are not on one have none. `null_label` is what null is called there,
    beside choices. `words` are texts that stand for values on a command line, such as `auto` for 0.
    """

    help: str
    unit: str = ""
    label: str = ""
    null_label: str = "automatic"
    low: Optional[float] = None
    high: Optional[float] = None
    above: Optional[float] = None
    choices: Tuple[Any, ...] = ()
    advanced: bool = False
    aliases: Tuple[str, ...] = ()
    words: Tuple[Tuple[str, Any], ...] = ()
    required: bool = False
    required_unless: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One leaf of a settings class: its dotted name, its type taken apart, its default and its rules."""

    name: str
    kind: type
    optional: bool
    many: bool
    default: Any
    rules: Rules

    def expected(self) -> str:
        """The allowed values in words, for help texts and error messages: `number above 0 (Å), or null`."""
        text = _KIND_NAMES[self.kind]
        if self.rules.choices:
            text = "one of " + ", ".join(str(choice) for choice in self.rules.choices)
        limits = self._limits()
        text += f" {limits}" if limits else ""
        text += f" ({self.rules.unit})" if self.rules.unit else ""
        text += "".join(f", or {word}" for word, _ in self.rules.words)
        text += ", one or more" if self.many else ""
        return text + (", or null" if self.optional else "")

    def _limits(self) -> str:
        rules = self.rules
        low = "" if rules.low is None else _plain(rules.low)
        high = "" if rules.high is None else _plain(rules.high)
        if rules.above is not None:
            return f"above {_plain(rules.above)}" + (f" up to {high}" if high else "")
        if low and high:
            return f"from {low} to {high}"
        return f"from {low}" if low else (f"up to {high}" if high else "")

    def allows(self, value: Any) -> bool:
        """Whether a value that already has the right type also keeps the rules."""
        if value is None:
            return self.optional
        if self.many:
            return all(self._allows_one(item) for item in value)
        return self._allows_one(value)

    def _allows_one(self, value: Any) -> bool:
        rules = self.rules
        if rules.choices:
            return value in rules.choices
        if self.kind not in (int, float):
            return True
        return (
            math.isfinite(value)
            and (rules.low is None or value >= rules.low)
            and (rules.high is None or value <= rules.high)
            and (rules.above is None or value > rules.above)
        )


def param(default: Any, help: str, **rules: Any) -> Any:
    """A dataclass field with rules (see `Rules`). A list as default is copied for each instance."""
    metadata = {_RULES: Rules(help=help, **rules)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(cls: type, help: str = "", compact: bool = False) -> Any:
    """A dataclass field that holds another settings class; a compact one is shown on a single line."""
    return field(default_factory=cls, metadata={"help": help, "compact": compact})


def is_section(settings_field: "dataclasses.Field[Any]") -> bool:
    """Whether a field holds a settings class, not a value."""
    return _RULES not in settings_field.metadata


def parameters(cls: Type[Any], prefix: str = "") -> Dict[str, Parameter]:
    """All leaves of a settings class by dotted name, in the order in which they were written."""
    hints = get_type_hints(cls)
    found: Dict[str, Parameter] = {}
    for item in dataclasses.fields(cls):
        name = prefix + item.name
        if is_section(item):
            found.update(parameters(hints[item.name], name + "."))
        else:
            kind, optional, many = _take_apart(hints[item.name])
            found[name] = Parameter(name, kind, optional, many, _default_of(item), item.metadata[_RULES])
    return found


def get_value(settings: Any, name: str) -> Any:
    """The value under a dotted name."""
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def value_problems(settings: Any, prefix: str = "", places: Optional[Mapping[str, str]] = None) -> List[str]:
    """All that is wrong with the values of a settings object, one sentence each.

    `prefix` is written before each name (`--` for command lines); `places` says where a value was read, by name.
    A settings class can have its own `problems()` for rules that tie several values together.
    """
    problems = []
    for parameter in parameters(type(settings)).values():
        value = get_value(settings, parameter.name)
        if not parameter.allows(value):
            place = (places or {}).get(parameter.name, "")
            problems.append(refusal(parameter, value, prefix, place))
    for part in _all_sections(settings):
        problems += part.problems() if hasattr(part, "problems") else []
    return problems


def refusal(parameter: Parameter, value: Any, prefix: str = "", place: str = "") -> str:
    """The sentence that refuses a value and says which ones are good."""
    shown = "null" if value is None else str(value)
    return f"{place}{prefix}{parameter.name}={shown} is not allowed: expected {parameter.expected()}."


def _plain(number: float) -> str:
    """A number without an exponent where it is whole."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _all_sections(settings: Any) -> Iterator[Any]:
    yield settings
    for item in dataclasses.fields(settings):
        if is_section(item):
            yield from _all_sections(getattr(settings, item.name))


def _take_apart(hint: Any) -> Tuple[type, bool, bool]:
    """Split `Optional[int]` or `List[str]` into (plain type, optional, many)."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, getattr(types, "UnionType", Union)):  # Python 3.10 has `int | None` too
        kind = next(part for part in inner if part is not type(None))
        return kind, True, False
    if origin is list:
        return inner[0], False, True
    return hint, False, False


def _default_of(item: "dataclasses.Field[Any]") -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
