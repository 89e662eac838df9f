"""Showing a configuration: YAML that can be used again, with types, limits and help as comments."""

import dataclasses
import json
from typing import Any, Dict, List

from cryopares_core.config.parameters import Parameter, get_value, is_section, parameters
from cryopares_core.config.schema import Config


def describe(config: Config) -> str:
    """The tree in YAML, one line for each parameter, its type, limits and help in a comment; `load_config` reads it."""
    head = ["# Configuration of CryoPARES: save it, change it, and give it back with --config_file"]
    return "\n".join(head + _section_lines(config, parameters(type(config)), "", 0)) + "\n"


def _section_lines(settings: Any, leaves: Dict[str, Parameter], prefix: str, depth: int) -> List[str]:
    lines: List[str] = []
    for item in dataclasses.fields(settings):
        name, indent = prefix + item.name, "  " * depth
        value = getattr(settings, item.name)
        if not is_section(item):
            leaf = leaves[name]
            lines.append(f"{indent}{item.name}: {_scalar(value)}  # {leaf.expected()}: {leaf.rules.help}")
        elif item.metadata["compact"]:
            lines.append(f"{indent}{item.name}: {_flow(value)}  # {item.metadata['help']}: {_flow_help(value)}")
        else:
            lines.append(f"{indent}{item.name}:  # {item.metadata['help']}")
            lines += _section_lines(value, leaves, name + ".", depth + 1)
    return lines


def _flow(settings: Any) -> str:
    """A small section on one line, so that `grep -A 20 "augmenter:"` shows all operations."""
    parts = [f"{name}: {_scalar(get_value(settings, name))}" for name in parameters(type(settings))]
    return "{" + ", ".join(parts) + "}"


def _flow_help(settings: Any) -> str:
    leaves = parameters(type(settings)).values()
    return "; ".join(f"{leaf.name} = {leaf.rules.help}, {leaf.expected()}" for leaf in leaves)


def _scalar(value: Any) -> str:
    """A value as YAML 1.1 has it: there `1e-05` would be text, `1.0e-05` is a number."""
    text = json.dumps(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text
