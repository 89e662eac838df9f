"""`cryopares_export_model`: a trained model as one file for others, and back."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from cryopares_core.commands.shell import run
from cryopares_core.config.cli import build_parser, parse_args
from cryopares_core.config.parameters import param
from cryopares_core.errors import UserError

logger = logging.getLogger(__name__)
DESCRIPTION = (
    "Write the models of a run to one file that can be used elsewhere, or unpack such a file. Nothing in a file is ever run."
)


@dataclass
class ExportArguments:
    """From a folder to a file, or from a file to a folder."""

    checkpoint_dir: Optional[str] = param(
        None, "The run's folder version_N, or that of one of its half sets.", required_unless=("import_fname",)
    )
    out: Optional[str] = param(None, "The file to write; its name should end in .cryopares.", required_unless=("import_fname",))
    import_fname: Optional[str] = param(None, "A .cryopares file to unpack.", aliases=("import",))
    out_dir: Optional[str] = param(None, "The folder to unpack it into; it must not be there yet.")
    overwrite: bool = param(False, "Replace an earlier file.")

    def problems(self) -> List[str]:
        """Rules that tie several options together."""
        if self.import_fname and not self.out_dir:
            return ["--import needs --out_dir, the folder to unpack into."]
        if self.import_fname and (self.checkpoint_dir or self.out):
            return ["--import goes with --out_dir alone."]
        return ["--out_dir goes with --import; the file to write is --out."] if self.out_dir and not self.import_fname else []


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = build_parser(ExportArguments, "cryopares_export_model", DESCRIPTION, with_config=False)
    arguments = parse_args(parser, argv).arguments
    if arguments.import_fname:
        _import(Path(arguments.import_fname), Path(arguments.out_dir))
    else:
        _export(Path(arguments.checkpoint_dir), Path(arguments.out), arguments.overwrite)


def _export(checkpoint_dir: Path, out: Path, overwrite: bool) -> None:
    if out.exists() and not (overwrite and out.is_file()):
        raise UserError(f"--out={out} is there already. Give another name, or add --overwrite.")
    from cryopares_core.inference.exchange import export_model

    names = export_model(checkpoint_dir, out)
    logger.info("Wrote %s: %s, %.1f MB", out, " and ".join(names), out.stat().st_size / 1e6)


def _import(path: Path, out_dir: Path) -> None:
    if not path.is_file():
        raise UserError(f"--import={path}: there is no such file.")
    from cryopares_core.inference.exchange import README, import_model

    folder = import_model(path, out_dir)
    logger.info("%s", (folder / README).read_text(encoding="utf-8"))
    logger.info("Unpacked into %s", folder)


if __name__ == "__main__":
    sys.exit(main())
