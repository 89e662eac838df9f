"""`cryopares_cache`: lists and removes prepared pictures on a scratch disk."""

import argparse
import datetime
import logging
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from cryopares_core.commands.shell import run
from cryopares_core.config.cli import CommandParser
from cryopares_core.errors import UserError
from cryopares_core.progress import size_text
from cryopares_core.scratch import Entry, entries

logger = logging.getLogger(__name__)
DESCRIPTION = "List or remove the prepared pictures that trainings have left in a scratch folder, for others to use."


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = CommandParser(argparse.Namespace, prog="cryopares_cache", description=DESCRIPTION)
    parser.add_argument("action", choices=("list", "clean"), help="What to do.")
    parser.add_argument("scratch_dir", metavar="SCRATCH_DIR", help="The --scratch_dir of trainings, or their --train_save_dir.")
    parser.add_argument("--days", type=float, default=0.0, help="Clean only what nobody has used for so many days.")
    parser.add_argument("--yes", action="store_true", help="Clean without asking.")
    options = parser.parse_args(argv)
    folder = Path(options.scratch_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the --scratch_dir of your trainings.")
    found = entries(folder)
    _list(folder, found)
    if options.action == "clean" and found:
        _clean(_old(found, options.days), options.yes)


def _list(folder: Path, found: List[Entry]) -> None:
    if not found:
        logger.info("%s holds no prepared pictures", folder)
        return
    logger.info("%-34s %9s  %-16s  %s", "", "GB", "last used", "what")
    for one in found:
        used = datetime.datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        logger.info("%-34s %9.2f  %-16s  %s", one.folder.name, one.n_bytes / 1e9, used, _what(one))
    logger.info("%-34s %9.2f", "all", sum(one.n_bytes for one in found) / 1e9)


def _what(one: Entry) -> str:
    about = one.about()
    if not about:
        return "unknown"
    size, sampling = about.get("image_size_px"), about.get("sampling_rate_angs")
    text = f"{about.get('particles', 0):,} particles, {size} px of {sampling:.4g} Å, from {about.get('first_stack', '')}"
    return text if one.complete else f"not finished: {text}"


def _old(found: List[Entry], days: float) -> List[Entry]:
    limit = datetime.datetime.now().timestamp() - 86400 * days
    return [one for one in found if one.used <= limit]


def _clean(found: List[Entry], without_asking: bool) -> None:
    if not found:
        logger.info("None is that old")
        return
    freed = sum(one.n_bytes for one in found)
    if not without_asking and not _agreed(f"Remove {len(found)} of them, {size_text(freed)}? [y/N] "):
        logger.info("Nothing is removed")
        return
    for one in found:
        removed = one.remove()
        logger.info("%s: %s", one.folder.name, "removed" if removed else "in use just now, stays")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("Nobody is there to ask: add --yes to remove them.")
    return input(question).strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(main())
