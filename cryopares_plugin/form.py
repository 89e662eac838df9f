"""Forms made from the core's schema: one field for each parameter, with its label, unit, default, limits and help."""

import dataclasses
from dataclasses import replace
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Type, get_type_hints

from pyworkflow.protocol import params
from pyworkflow.protocol.constants import LEVEL_ADVANCED, LEVEL_NORMAL

from cryopares_core.config.parameters import Parameter, Rules, is_section, parameters
from cryopares_core.config.schema import Config

FINAL = "_final"
TABS = ("Data", "Network", "Optimiser", "Augmentation")
# What most users set; the rest of a tab shows at the expert level.
USUAL = (
    "sampling_rate_angs_for_nnet",
    "image_size_px_for_nnet",
    "mask_radius_angs",
    "lmax",
    "resnetName",
    "learning_rate",
    "augment_train",
)


class Field(NamedTuple):
    """A leaf of the configuration tree on a form. `name` is that of the protocol's attribute."""

    name: str
    leaf: Parameter
    tab: str
    line: str


def tree_fields() -> List[Field]:
    """All parameters of the configuration tree, each with its place on the form."""
    leaves = parameters(Config)
    lines = dict(_compact_sections(Config))
    return [
        Field(_short_name(name, leaves), leaf, _tab(name), lines.get(name.rpartition(".")[0], "")) for name, leaf in leaves.items()
    ]


def add_fields(form: Any, fields: List[Field], defaults: Optional[Dict[str, Any]] = None) -> None:
    """Add fields to the form's last section; those of one augmentation operation share a line."""
    lines: Dict[str, Any] = {}
    for field in fields:
        level = LEVEL_NORMAL if field.name in USUAL else LEVEL_ADVANCED
        place = form
        if field.line and field.line not in lines:
            lines[field.line] = form.addLine(field.line, expertLevel=level, help=_line_help(field.line, fields))
        if field.line:
            place = lines[field.line]
        add_parameter(place, field.name, field.leaf, level, (defaults or {}).get(field.name))


def add_parameter(place: Any, name: str, leaf: Parameter, level: int = LEVEL_NORMAL, default: Any = None) -> None:
    """One parameter of the schema as a field of Scipion's form."""
    rules, kind = leaf.rules, leaf.kind
    value = leaf.default if default is None else default
    common = {"label": _label(leaf), "help": help_text(leaf), "expertLevel": level}
    if rules.choices:
        choices = _choices(leaf)
        index = choices.index(leaf.rules.null_label if value is None else str(value))
        place.addParam(name, params.EnumParam, choices=choices, default=index, **common)
    elif kind is bool:
        place.addParam(name, params.BooleanParam, default=value, **common)
    elif kind is str:
        place.addParam(name, params.StringParam, default=value, allowsNull=leaf.optional, **common)
    else:
        cls = params.IntParam if kind is int else params.FloatParam
        place.addParam(name, cls, default=value, allowsNull=leaf.optional, validators=[SchemaValidator(leaf)], **common)


class SchemaValidator:
    """Refuses values out of the schema's range, with the range in words; Scipion puts the label before."""

    def __init__(self, leaf: Parameter):
        self.leaf = leaf

    def __call__(self, value: Any) -> List[str]:
        if value is None:
            return [] if self.leaf.optional else [f"cannot be empty: expected {_allowed(self.leaf)}."]
        return [] if self.leaf.allows(value) else [f"= {value} is not allowed: expected {_allowed(self.leaf)}."]


def form_value(protocol: Any, name: str, leaf: Parameter) -> Any:
    """The value of a field, choices as their text; None where it is empty."""
    value = getattr(protocol, name).get()
    if leaf.rules.choices:
        choice = _choices(leaf)[value]
        return None if leaf.optional and value == 0 else leaf.kind(choice)
    if leaf.kind is str:
        return value or None
    return value


def overrides(protocol: Any, fields: List[Field], free_text: str = "") -> List[str]:
    """`name=value` words for the fields that differ from the schema's defaults, then those of the free field."""
    words = []
    for field in fields:
        value = form_value(protocol, field.name, field.leaf)
        # What is out of range is told by the field itself.
        if value != field.leaf.default and field.leaf.allows(value):
            words.append(f"{field.leaf.name}={'null' if value is None else value}")
    return words + free_text.split()


def _compact_sections(cls: Type[Any], prefix: str = "") -> Iterator[Tuple[str, str]]:
    """Dotted name and title of the sections that are shown on one line."""
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if is_section(item):
            if item.metadata["compact"]:
                yield prefix + item.name, item.metadata["help"]
            yield from _compact_sections(hints[item.name], f"{prefix}{item.name}.")


def _short_name(name: str, names: Dict[str, Parameter]) -> str:
    """The last part of a dotted name, or the last two with `_` where the last one alone stands for several."""
    parts = name.split(".")
    unique = sum(other.rpartition(".")[2] == parts[-1] for other in names) == 1
    in_operation = len(parts) > 2 and parts[-3] == "operations"
    return parts[-1] if unique and not in_operation else "_".join(parts[-2:])


def _tab(name: str) -> str:
    if name.startswith("datamanager.particlesDataset."):
        return "Data"
    return {"datamanager": "Augmentation", "models": "Network", "train": "Optimiser"}[name.split(".")[0]]


def _choices(leaf: Parameter) -> List[str]:
    return ([leaf.rules.null_label] if leaf.optional else []) + [str(choice) for choice in leaf.rules.choices]


def _label(leaf: Parameter) -> str:
    """A short name with the unit and with what special values mean: `Patience before training ends (epochs; empty: never)`."""
    rules = leaf.rules
    # Those that share a line have no label, and a probability that changes is told there as `probability 0.1 to 0`.
    name = rules.label or ("to" if leaf.name.endswith(FINAL) else rules.help)
    notes = [rules.unit] if rules.unit and rules.unit not in name.lower() else []
    notes += [f"{value}: {word}" for word, value in rules.words]
    if leaf.optional and not (rules.choices or leaf.name.endswith(FINAL)) and rules.null_label != Rules.null_label:
        notes.append(f"empty: {rules.null_label}")
    return f"{name} ({'; '.join(notes)})" if notes else name


def help_text(leaf: Parameter) -> str:
    """Help, limits and the name on the command line, as `--help` has them."""
    text = leaf.rules.help.replace("null", "empty")
    default = "empty" if leaf.default is None else leaf.default
    allowed = "" if leaf.kind is bool else f"\nAllowed: {_allowed(leaf)}."
    return f"{text}{allowed}\nDefault: {default}.\nOn the command line: {leaf.name}"


def _allowed(leaf: Parameter) -> str:
    """The allowed values in words. A field takes numbers alone, where a command line has words for some."""
    numbers_alone = replace(leaf, rules=replace(leaf.rules, words=()))
    return numbers_alone.expected().replace("null", "empty")


def _line_help(line: str, fields: List[Field]) -> str:
    leaves = [field.leaf for field in fields if field.line == line]
    parts = [f"{leaf.rules.help}: {leaf.expected()}; default {leaf.default} ({leaf.name})" for leaf in leaves]
    return "\n".join([f"{line}.", *parts]).replace("null", "empty").replace("None", "empty")
