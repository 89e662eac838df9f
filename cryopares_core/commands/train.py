"""`cryopares_train`: train a network on particles with known poses."""

import sys
from dataclasses import replace
from typing import Any, Optional, Sequence

from cryopares_core.commands.shell import REQUEUE, run
from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.cli import CommandLine, build_parser, parse_args
from cryopares_core.config.merge import load_config
from cryopares_core.config.show import describe
from cryopares_core.errors import UserError

DESCRIPTION = "Train a network on particles with known poses, one model for each half set."


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code, 75 after SIGTERM: then the same command goes on."""
    return run(lambda: _main(argv), terminated=REQUEUE)


def _main(argv: Optional[Sequence[str]]) -> None:
    command = parse_args(build_parser(TrainArguments, "cryopares_train", DESCRIPTION), argv)
    if command.arguments.continue_checkpoint_dir and not command.show_config:
        _continue(command)
        return
    config = load_config(command.config_file, command.overrides, command.arguments.recipe)
    if command.show_config:
        sys.stdout.write(describe(config))
        return
    _train(command.arguments, config, None)


def _train(arguments: Any, config: Any, continued_dir: Any) -> None:
    from cryopares_core.training.phases import Phases

    phases = Phases()
    with phases("start-up"):
        from cryopares_core.training.run import run_training
    run_training(arguments, config, phases, continued_dir)


def _continue(command: CommandLine) -> None:
    """Go on with an earlier run: its own arguments and settings, but for what stands on this command line."""
    import json
    from pathlib import Path

    folder = Path(command.arguments.continue_checkpoint_dir)
    try:
        earlier = TrainArguments(**json.loads((folder / "run.json").read_text(encoding="utf-8"))["arguments"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--continue_checkpoint_dir={folder}: no run of cryopares_train is there ({error}). Give its version_N folder."
        ) from error
    given = {name: getattr(command.arguments, name) for name in command.given if name != "continue_checkpoint_dir"}
    config = load_config(command.config_file or str(folder / "config.yml"), command.overrides)
    _train(replace(earlier, **given), config, folder)


if __name__ == "__main__":
    sys.exit(main())
