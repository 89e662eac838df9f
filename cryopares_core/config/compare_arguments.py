"""The options of `cryopares_compare_poses`."""

# ruff: noqa: RUF009 -- `param` returns a dataclass field, made anew for each instance.

from dataclasses import dataclass
from typing import List, Optional

from cryopares_core.config.parameters import param


@dataclass
class CompareArguments:
    """Which files, under which symmetry, and where the tables and pictures go."""

    star_fnames: List[str] = param([], "The two STAR files; on the command line they also stand by themselves, first of all.")
    symmetry: str = param("C1", "Point group symmetry: mates under it count as the same pose.", label="Symmetry")
    out_dir: Optional[str] = param(None, "Folder for the table of all particles and the pictures; null writes none.")

    def problems(self) -> List[str]:
        """There is always a first and a second file."""
        if len(self.star_fnames) != 2:
            return [f"Two STAR files are compared, and {len(self.star_fnames)} are given: cryopares_compare_poses A.star B.star."]
        return []
