"""`cryopares_report`: makes the report of a training run again, from the files in its folder."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Optional, Sequence

from cryopares_core.commands.shell import run
from cryopares_core.config.cli import CommandParser
from cryopares_core.errors import UserError

logger = logging.getLogger(__name__)
DESCRIPTION = "Write report.html and learning_curves.png of a training run again: at its end, or while it is going on."


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = CommandParser(argparse.Namespace, prog="cryopares_report", description=DESCRIPTION)
    parser.add_argument("version_dir", metavar="VERSION_DIR", help="Folder version_N of a run of cryopares_train.")
    folder = Path(parser.parse_args(argv).version_dir)
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder}: no run of cryopares_train is there (it has no run.json). Give its version_N folder.")
    from cryopares_core.plots.report import write_report

    logger.info("Wrote %s", write_report(folder))


if __name__ == "__main__":
    sys.exit(main())
