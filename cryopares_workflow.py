"""`scipion run cryopares_workflow`, or `python -m cryopares_workflow`: runs a workflow saved from Scipion without a screen.

Scipion reads its settings from the environment while it is imported: they are put there first, and nothing of it is imported above.
"""

import argparse
import importlib.util  # Scipion uses it and counts on others to have imported it
import os
import sys
from typing import List, Optional

EXPLANATION = """\
PROTOCOL is the name of a run as the window shows it, its class, or its id in the file; capitals, spaces and dashes do not
matter. An input is named by what makes it: train.inputParticles=importparticles.outputParticles. --list shows
what can be set.

The same command again goes on where it was stopped: what is finished is not run again.
It leaves with 0 when all is finished, 1 when a protocol failed, 2 when the command or the workflow has to be mended first,
and 130 or 143 when it was stopped; then the running protocol is stopped too."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="cryopares_workflow",
        description="Runs a workflow saved from Scipion's window to its end, without a screen.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("workflow", help="JSON file: in a project's window, select the runs and take 'Export' from the menu")
    options.add_argument("settings", nargs="*", metavar="PROTOCOL.PARAMETER=VALUE", help="what to change of the workflow")
    options.add_argument("--project", metavar="NAME", help="name of the Scipion project; made if there is none of that name")
    options.add_argument("--new", action="store_true", help="load the workflow again beside what the project has already")
    options.add_argument("--queue", metavar="NAME", help="send every protocol to this queue of Scipion's hosts.conf")
    options.add_argument("--list", action="store_true", help="show the protocols and what can be set, and leave")
    return options


def prepare_environment() -> Optional[str]:
    """Puts Scipion's settings into the environment, as the command `scipion` does, unless it has; returns what is in the way."""
    if importlib.util.find_spec("pyworkflow") is None:
        return "Scipion is not in this Python environment: run it as 'scipion run cryopares_workflow …'."
    if "SCIPION_VERSION" in os.environ:
        return None
    if not os.path.isdir(os.environ.get("SCIPION_HOME", "")):
        return "SCIPION_HOME does not name the folder of a Scipion installation: set it, or run 'scipion run cryopares_workflow …'."
    if importlib.util.find_spec("scipion") is not None:
        arguments, sys.argv = sys.argv, ["scipion", "run"]  # its start module reads options when it is imported
        try:
            from scipion.__main__ import VARS
        finally:
            sys.argv = arguments
        os.environ.update(VARS)
    os.environ.setdefault("SCIPION_DOMAIN", "pwem")
    return None


def main(arguments: Optional[List[str]] = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_intermixed_args(arguments)
    problem = prepare_environment()
    if problem:
        sys.stderr.write(problem + "\n")
        return 2
    from cryopares_plugin.headless.command import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
