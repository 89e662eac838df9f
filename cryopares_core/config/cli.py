"""Command lines made from settings dataclasses: one option for each field, with its type, unit, default and help."""

import argparse
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, NoReturn, Optional, Sequence, Type

from cryopares_core.config.names import did_you_mean
from cryopares_core.config.parameters import Parameter, parameters, refusal, value_problems
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError

_TRUE = ("true", "yes", "1", "on")
_FALSE = ("false", "no", "0", "off")
_CONFIG_OPTIONS = ("config", "config_file", "show_config")


@dataclass(frozen=True)
class CommandLine:
    """What a command line said. `given` holds the names of the options that stood there; others have defaults."""

    arguments: Any
    given: FrozenSet[str]
    config_file: Optional[str] = None
    overrides: Sequence[str] = ()
    show_config: bool = False


class CommandParser(argparse.ArgumentParser):
    """An argument parser that knows its settings class and raises UserError, so that commands report alike."""

    def __init__(self, arguments_class: Type[Any], **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        self.arguments_class = arguments_class
        self.option_names: List[str] = []

    def error(self, message: str) -> NoReturn:
        """Called by argparse, which itself would print the whole usage first."""
        raise UserError(f"{self.prog}: {message}")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)


def build_parser(arguments_class: Type[Any], prog: str, description: str, with_config: bool = True) -> CommandParser:
    """A parser with one `--option` for each field of a flat settings dataclass.

    `with_config` adds `--config`, `--config_file` and `--show-config`, for commands that take the configuration tree.
    """
    parser = CommandParser(arguments_class, prog=prog, description=description)
    for parameter in parameters(arguments_class).values():
        _add_option(parser, parameter)
    if with_config:
        _add_config_options(parser)
    parser.option_names = [option for action in parser._actions for option in action.option_strings]
    return parser


def parse_args(parser: CommandParser, argv: Optional[Sequence[str]] = None) -> CommandLine:
    """Read a command line (default: that of the process). Raises UserError with all problems at once.

    With `--show-config` nothing is required, because the command only prints and leaves.
    """
    found, unknown = parser.parse_known_args(argv)
    texts = {name: text for name, text in vars(found).items() if text is not None}
    config = {name: texts.pop(name, None) for name in _CONFIG_OPTIONS}
    problems = _unknown_problems(parser, unknown)
    values: Dict[str, Any] = {}
    leaves = parameters(parser.arguments_class)
    for name, text in texts.items():
        try:
            values[name] = _convert(leaves[name], text)
        except ValueError:
            problems.append(refusal(leaves[name], text, prefix="--"))
    if not config["show_config"]:
        problems += _missing_problems(leaves, texts)
    arguments = parser.arguments_class(**values)
    problems += value_problems(arguments, prefix="--")
    if problems:
        raise UserError(problems)
    return CommandLine(
        arguments, frozenset(texts), config["config_file"], tuple(config["config"] or ()), bool(config["show_config"])
    )


def _add_option(parser: CommandParser, parameter: Parameter) -> None:
    """One option. Its text is converted later, so that all wrong values are told at once."""
    rules = parameter.rules
    options = ["--" + name for name in (parameter.name, *rules.aliases)]
    extra: Dict[str, Any] = {}
    if parameter.kind is bool:
        extra = {"nargs": "?", "const": "True"}
    elif parameter.many:
        extra = {"nargs": "+", "action": "extend"}
    metavar = {bool: "True|False", str: "TEXT", int: "N", float: "X"}[parameter.kind]
    parser.add_argument(*options, dest=parameter.name, metavar=metavar, help=_help_text(parameter), **extra)


def _add_config_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="Parameters of the configuration tree, such as train.learning_rate=1e-4 train.weight_decay=0.",
    )
    parser.add_argument("--config_file", metavar="FILE", help="YAML file of the configuration tree; --config beats it.")
    parser.add_argument(
        "--show-config",
        "--show_config",
        action="store_const",
        const=True,
        help="Print the configuration tree with types and help, as it would be used, and leave.",
    )


def _help_text(parameter: Parameter) -> str:
    rules, default = parameter.rules, parameter.default
    text = rules.help
    if parameter.kind is not str or rules.choices:
        text += f" [{parameter.expected()}]"
    if rules.required:
        text += " Required."
    elif rules.required_unless:
        text += f" Required, except with --{' or --'.join(rules.required_unless)}."
    elif default is not None and default != []:
        text += f" Default: {default}."
    return text.replace("%", "%%")


def _unknown_problems(parser: CommandParser, words: Sequence[str]) -> List[str]:
    """A sentence for each word that no option took; the value after an unknown option is not told apart from it."""
    problems: List[str] = []
    after_option = False
    for word in words:
        if word.startswith("-"):
            option = word.partition("=")[0]
            problems.append(f"Unknown option {option}.{_hint(parser, option)}")
            after_option = "=" not in word
        elif not after_option:
            problems.append(f"Unexpected word {word!r}: each value needs an option before it (see --help).")
    return problems


def _hint(parser: CommandParser, option: str) -> str:
    """What an unknown option may have been meant for: a parameter of the tree, or another option."""
    ending = "." + option.lstrip("-").lower()
    in_tree = [name for name in parameters(Config) if name.lower().endswith(ending)]
    if in_tree and "--config" in parser.option_names:
        return f" It is given as --config {in_tree[0]}=VALUE."
    return did_you_mean(option, parser.option_names)


def _missing_problems(leaves: Dict[str, Parameter], given: Dict[str, Any]) -> List[str]:
    problems: List[str] = []
    for leaf in leaves.values():
        rules = leaf.rules
        excused = any(name in given for name in rules.required_unless)
        if (rules.required or (rules.required_unless and not excused)) and leaf.name not in given:
            problems.append(f"--{leaf.name} is missing. {rules.help}")
    return problems


def _convert(parameter: Parameter, text: Any) -> Any:
    """The value that an option's text (or list of texts) stands for; ValueError where it stands for none."""
    if parameter.many:
        return [_convert_one(parameter.kind, item) for item in text]
    if parameter.optional and parameter.kind is not str and text.lower() in ("none", "null"):
        return None
    words = dict(parameter.rules.words)
    return words[text.lower()] if text.lower() in words else _convert_one(parameter.kind, text)


def _convert_one(kind: type, text: str) -> Any:
    if kind is not bool:
        return kind(text)
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE
