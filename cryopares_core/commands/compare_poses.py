"""`cryopares_compare_poses`: the poses of the same particles in two STAR files, against each other."""

import argparse
import logging
import sys
from typing import Any, List, Optional, Sequence

from cryopares_core.commands.shell import run
from cryopares_core.config.cli import build_parser, parse_args
from cryopares_core.config.compare_arguments import CompareArguments

logger = logging.getLogger(__name__)
DESCRIPTION = "Compare the poses and shifts of the same particles in two STAR files, matched by the names of their pictures."
NAMES_SHOWN = 3


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = build_parser(CompareArguments, "cryopares_compare_poses", DESCRIPTION, with_config=False)
    parser.add_argument("star_fnames", nargs="*", metavar="STAR", default=argparse.SUPPRESS, help="The two STAR files.")
    arguments = parse_args(parser, argv).arguments
    from cryopares_core.geometry.symmetry import point_group
    from cryopares_core.inference.comparison import PoseComparison, table_text, write_comparison
    from cryopares_core.inference.comparison_remarks import remarks
    from cryopares_core.particles.pose_files import match
    from cryopares_core.volumes.threads import one_thread_an_operation

    group = point_group(arguments.symmetry)
    first, second = _read(arguments.star_fnames)
    with one_thread_an_operation():
        comparison = PoseComparison(first, second, match(first, second), group)
        _tell_matched(comparison)
        logger.info("%s", table_text(comparison.figures()))
        said = remarks(comparison)
        for remark in said:
            logger.info("Remark: %s", remark)
        if arguments.out_dir is not None:
            write_comparison(arguments.out_dir, comparison, said)
            logger.info("Wrote %s", arguments.out_dir)


def _read(paths: Sequence[str]) -> List[Any]:
    """Both files; what is wrong with either is told together."""
    from cryopares_core.errors import UserError
    from cryopares_core.particles.pose_files import read_poses

    files, problems = [], []  # type: List[Any], List[str]
    for path in paths:
        try:
            files.append(read_poses(path))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return files


def _tell_matched(comparison: Any) -> None:
    """How many particles are in both files, and which are not."""
    matched = comparison.matched
    logger.info("%s particles are in both files; %s", f"{len(matched.first):,}", f"symmetry {comparison.group.name}")
    if matched.by_stack_name:
        logger.warning("No names are the same with their folders: pictures are matched by number and stack alone.")
    for file, rows in ((comparison.first, matched.only_first), (comparison.second, matched.only_second)):
        if len(rows):
            names = ", ".join(file.names[rows[:NAMES_SHOWN]]) + (", …" if len(rows) > NAMES_SHOWN else "")
            logger.warning("%s particles are in %s alone and are not compared: %s", f"{len(rows):,}", file.path, names)


if __name__ == "__main__":
    sys.exit(main())
