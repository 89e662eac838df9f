"""`cryopares_refine`: poses and shifts refined against a map."""

import sys
from typing import Optional, Sequence

from cryopares_core.commands.shell import REQUEUE, run
from cryopares_core.config.cli import build_parser, parse_args
from cryopares_core.config.refine_arguments import RefineArguments

DESCRIPTION = "Refine poses and shifts of particles locally against a map, or a map for each half set."


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code, 75 after SIGTERM: then the same command goes on."""
    return run(lambda: _main(argv), terminated=REQUEUE)


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = build_parser(RefineArguments, "cryopares_refine", DESCRIPTION, with_config=False)
    arguments = parse_args(parser, argv).arguments
    from cryopares_core.refinement.run import run_refinement

    run_refinement(arguments)


if __name__ == "__main__":
    sys.exit(main())
