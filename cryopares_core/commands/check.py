"""`cryopares_check`: looks at what a training would be made of, and tells what is wrong, suspicious or costly before it starts."""

import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from cryopares_core.commands.shell import run
from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.cli import CommandLine, build_parser, parse_args
from cryopares_core.config.merge import load_config
from cryopares_core.config.parameters import param, parameters
from cryopares_core.config.schema import Config
from cryopares_core.config.show import describe
from cryopares_core.errors import UserError

logger = logging.getLogger(__name__)
DESCRIPTION = "Check particles and settings before a training, with the words of cryopares_train. Nothing is trained or written."


@dataclass
class CheckArguments(TrainArguments):
    """Those of the training, and where else to put the answer."""

    json: Optional[str] = param(None, "Write the findings to this file too, for programs.")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code: 0 where training can start, 2 where it would refuse."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    command = parse_args(build_parser(CheckArguments, "cryopares_check", DESCRIPTION), argv)
    if command.show_config:
        sys.stdout.write(describe(load_config(command.config_file, command.overrides, command.arguments.recipe)))
        return
    arguments, config_file, folder = _asked(command)
    config, problems = _config(config_file, command, folder)
    _check_file(command.arguments.json)
    from cryopares_core.training.preflight.check import check_training
    from cryopares_core.training.preflight.findings import ERROR, WARNING

    found = check_training(arguments, config, problems, folder)
    errors, warnings = found.count(ERROR), found.count(WARNING)
    logger.info("%s\n\n%s", found.text(), _summary(errors, warnings))
    if command.arguments.json:
        found.write_json(Path(command.arguments.json))
    if errors:
        raise UserError([])  # all is told


def _asked(command: CommandLine) -> Tuple[TrainArguments, Optional[str], Optional[Path]]:
    """The training's own arguments, its file of settings, and the run that goes on, if one does."""
    given = {name: getattr(command.arguments, name) for name in parameters(TrainArguments)}
    if not command.arguments.continue_checkpoint_dir:
        return TrainArguments(**given), command.config_file, None
    from cryopares_core.plots.readers import read_json

    folder = Path(command.arguments.continue_checkpoint_dir)
    earlier = read_json(folder / "run.json").get("arguments")
    if not earlier:
        raise UserError(f"--continue_checkpoint_dir={folder}: no run of cryopares_train is there. Give its version_N folder.")
    changed = {name: value for name, value in given.items() if name in command.given and name != "continue_checkpoint_dir"}
    return replace(TrainArguments(**earlier), **changed), command.config_file or str(folder / "config.yml"), folder


def _config(config_file: Optional[str], command: CommandLine, folder: Optional[Path]) -> Tuple[Config, List[str]]:
    """The configuration tree; with what is wrong with it, the defaults."""
    try:
        recipe = {} if folder else {"recipe": command.arguments.recipe}  # that of a run that goes on is in its settings
        return load_config(config_file, command.overrides, **recipe), []
    except UserError as error:
        return Config(), error.problems


def _check_file(path: Optional[str]) -> None:
    """Told before the looks, which take a while."""
    folder = os.path.dirname(os.path.abspath(path)) if path else os.curdir
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--json={path}: {folder} is not a folder that you may write to.")


def _summary(errors: int, warnings: int) -> str:
    words = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in ((errors, "error"), (warnings, "warning")) if count]
    if errors:
        return f"{' and '.join(words)}: cryopares_train would refuse this."
    return f"{' and '.join(words) or 'Nothing is wrong'}: cryopares_train can start with these words."


if __name__ == "__main__":
    sys.exit(main())
