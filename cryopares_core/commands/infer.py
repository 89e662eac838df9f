"""`cryopares_infer`: poses of new particles by a trained model."""

import sys
from typing import Optional, Sequence

from cryopares_core.commands.shell import REQUEUE, run
from cryopares_core.config.cli import build_parser, parse_args
from cryopares_core.config.infer_arguments import InferArguments

DESCRIPTION = "Find the poses of particles with a trained model, and how sure they are."


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code, 75 after SIGTERM: then the same command goes on."""
    return run(lambda: _main(argv), terminated=REQUEUE)


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = build_parser(InferArguments, "cryopares_infer", DESCRIPTION, with_config=False)
    arguments = parse_args(parser, argv).arguments
    from cryopares_core.inference.run import run_inference

    run_inference(arguments)


if __name__ == "__main__":
    sys.exit(main())
