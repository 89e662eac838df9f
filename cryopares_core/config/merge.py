"""Reading a configuration: the defaults, then a YAML file, then `name=value` overrides."""

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from cryopares_core.config.names import did_you_mean
from cryopares_core.config.parameters import Parameter, parameters, refusal, value_problems
from cryopares_core.config.recipes import GUIDE, RECIPES
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError


@dataclass(frozen=True)
class _Setting:
    """One value that the user gave; `place` says where, ready to stand before a message."""

    name: str
    value: Any
    place: str = ""


def load_config(config_file: Optional[str] = None, overrides: Sequence[str] = (), recipe: str = GUIDE) -> Config:
    """The configuration that results from a recipe, a YAML file and overrides such as `train.learning_rate=1e-4`.

    Names are matched without regard to case; overrides win over the file, and the file over the recipe. Raises UserError with
    all problems at once: unknown names (with the nearest valid ones), values of a wrong type or out of range, YAML that cannot
    be read.
    """
    from omegaconf import OmegaConf

    settings, problems = _read_overrides(overrides)
    if config_file is not None:
        from_file, file_problems = _read_file(str(config_file))
        settings, problems = from_file + settings, file_problems + problems
    settings = _read_overrides(RECIPES[recipe])[0] + settings
    tree, names, places = OmegaConf.structured(Config), _Names(), {}
    for setting in settings:
        try:
            places[_assign(tree, names, setting)] = setting.place
        except ValueError as error:
            problems.append(str(error))
    config: Config = OmegaConf.to_object(tree)  # type: ignore[assignment]
    problems += value_problems(config, places=places)
    if problems:
        raise UserError(problems)
    return config


def to_yaml(config: Config) -> str:
    """The whole tree as plain YAML, which `load_config` reads back to the same values."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


class _Names:
    """The valid names, found without regard to case."""

    def __init__(self) -> None:
        self.leaves: Dict[str, Parameter] = {name.lower(): leaf for name, leaf in parameters(Config).items()}
        self.sections = {name.rsplit(".", depth)[0] for name in self.leaves for depth in range(1, name.count(".") + 1)}
        self.valid = [leaf.name for leaf in self.leaves.values()]


def _assign(tree: Any, names: _Names, setting: _Setting) -> str:
    """Put one setting into the tree and return its proper name; ValueError says what is wrong with it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    low = setting.name.lower()
    if low in names.sections:
        if setting.value is None:  # a section of a YAML file whose lines are all commented out
            return low
        inside = [name for name in names.valid if name.lower().startswith(low + ".")]
        raise ValueError(f"{setting.place}{setting.name} is a group of parameters, such as {', '.join(inside[:3])}.")
    if low not in names.leaves:
        raise ValueError(f"{setting.place}unknown parameter {setting.name}.{did_you_mean(setting.name, names.valid)}")
    leaf = names.leaves[low]
    value = None if leaf.optional and str(setting.value).lower() == "none" else setting.value
    if leaf.kind is bool and isinstance(value, int) and value not in (0, 1):  # OmegaConf takes any number for True
        raise ValueError(refusal(leaf, value, place=setting.place))
    try:
        OmegaConf.update(tree, leaf.name, value)
    except OmegaConfBaseException:
        raise ValueError(refusal(leaf, value, place=setting.place)) from None
    return leaf.name


def _read_overrides(overrides: Sequence[str]) -> Tuple[List[_Setting], List[str]]:
    """Split `name=value` words into settings; the second list says which words are none."""
    settings: List[_Setting] = []
    problems: List[str] = []
    for word in overrides:
        name, equals, text = word.partition("=")
        if not equals or not name.strip() or not text.strip():
            problems.append(f"--config: {word!r} is not key=value (write no spaces around '=', and null for none).")
            continue
        try:
            settings += _flatten(_parse_value(text), name.strip(), {}, "")
        except ValueError as error:
            problems.append(f"--config {name}: {text!r} cannot be read as a value: {error}")
    return settings, problems


def _parse_value(text: str) -> Any:
    """The value of an override, by OmegaConf's rules (YAML, with 1e-3 a number)."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        parsed: Any = OmegaConf.from_dotlist(["value=" + text])
        return OmegaConf.to_container(parsed, resolve=True, throw_on_missing=True)["value"]  # type: ignore
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _read_file(fname: str) -> Tuple[List[_Setting], List[str]]:
    """The settings of a YAML file, each with its line; or why there are none."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with open(fname, encoding="utf-8") as stream:
            lines = _line_numbers(yaml.compose(stream, Loader=yaml.SafeLoader))
        content = OmegaConf.to_container(OmegaConf.load(fname), resolve=True, throw_on_missing=True)
    except OSError as error:
        return [], [f"{fname}: cannot be read ({error.strerror or error})."]
    except UnicodeDecodeError:
        return [], [f"{fname}: is not a text file in UTF-8."]
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return [], [f"{fname}{line}: is not valid YAML: {error.problem}."]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        return [], [f"{fname}: is not valid YAML: {str(error).splitlines()[0]}."]
    if not isinstance(content, dict):
        return [], [f"{fname}: the outermost level must be names with values (name: value), not a list."]
    return list(_flatten(content, "", lines, fname)), []


def _flatten(value: Any, name: str, lines: Dict[str, int], fname: str) -> Iterator[_Setting]:
    """One setting for each leaf of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key), lines, fname)
        return
    place = f"{fname}, line {lines[name]}: " if name in lines else ""
    yield _Setting(name, value, place)


def _line_numbers(node: Any, prefix: str = "") -> Dict[str, int]:
    """The line, from 1, of each dotted name in a YAML document."""
    import yaml

    found: Dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}.{key.value}" if prefix else str(key.value)
            found[name] = key.start_mark.line + 1
            found.update(_line_numbers(value, name))
    return found
