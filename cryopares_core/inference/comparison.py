"""Two STAR files of the same particles, pose against pose: differences, what they have in common, tables and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.files import write_text
from cryopares_core.geometry.alignment import distances_degs
from cryopares_core.geometry.grids import healpix_pixels
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.geometry.symmetry import PointGroup
from cryopares_core.particles.pose_files import Matched, PoseFile
from cryopares_core.plots.figures import new_figure, save_png
from cryopares_core.plots.pose_comparison import PERCENTILES, POSE_COLUMNS, draw_differences, draw_views
from cryopares_core.training.records import VIEW_ORDER, views_of

CSV, SUMMARY, HISTOGRAMS, VIEWS, UNMATCHED = (
    "pose_differences.csv",
    "comparison.json",
    "pose_differences.png",
    "pose_differences_by_view.png",
    "unmatched.csv",
)
SHARES_UNDER_DEGS = (1.0, 5.0, 10.0)


@dataclass(frozen=True)
class PoseComparison:
    """Particles that two files have in common.

    Attributes
    ----------
    group : mates of it count as the same pose
    """

    first: PoseFile
    second: PoseFile
    matched: Matched
    group: PointGroup

    @cached_property
    def poses(self) -> tuple[Tensor, Tensor]:
        """Pose matrices of both, `(n, 3, 3)` float64."""
        eulers = self.first.eulers_deg[self.matched.first], self.second.eulers_deg[self.matched.second]
        first, second = (euler_degs_to_matrix(torch.tensor(angles, dtype=torch.float64)) for angles in eulers)
        return first, second

    @cached_property
    def difference_degs(self) -> np.ndarray:
        """`(n,)` geodesic distances."""
        return distances_degs(*self.poses, self.group.matrices).numpy()

    @cached_property
    def shift_angs(self) -> np.ndarray:
        """`(n, 2)` x, y: the second's shift less the first's."""
        return self.second.shifts_angs[self.matched.second] - self.first.shifts_angs[self.matched.first]

    @cached_property
    def half_set(self) -> np.ndarray:
        """`(n,)` 1 or 2, 0 where neither file tells."""
        for file, rows in ((self.first, self.matched.first), (self.second, self.matched.second)):
            if file.half_set is not None:
                return file.half_set[rows]
        return np.zeros(len(self.matched.first), dtype=np.int8)

    def parts(self) -> dict[str, np.ndarray]:
        """Rows `(n,)` of all particles, and of each half set where there are both."""
        parts = {"all": np.ones(len(self.half_set), dtype=bool)}
        halves = {f"half {half}": self.half_set == half for half in (1, 2)}
        return parts | (halves if all(rows.any() for rows in halves.values()) else {})

    def figures(self) -> dict[str, dict[str, float]]:
        """For each part: number, mean, median and percentiles of both differences, and shares under some angles."""
        length = np.hypot(*self.shift_angs.T)
        return {name: _figures(self.difference_degs[rows], length[rows]) for name, rows in self.parts().items()}


def _figures(degs: np.ndarray, angs: np.ndarray) -> dict[str, float]:
    found = {"particles": len(degs), "mean_degs": degs.mean(), "median_degs": np.median(degs)}
    found |= {f"p{place}_degs": value for place, value in zip(PERCENTILES, np.percentile(degs, PERCENTILES), strict=True)}
    found |= {f"share_under_{limit:g}_degs": (degs < limit).mean() for limit in SHARES_UNDER_DEGS}
    found |= {"mean_shift_angs": angs.mean(), "median_shift_angs": np.median(angs)}
    found |= {f"p{place}_shift_angs": value for place, value in zip(PERCENTILES, np.percentile(angs, PERCENTILES), strict=True)}
    return {name: round(float(value), 5) for name, value in found.items()}


def table_text(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Numbers of all parts as a table for the terminal, one line a figure."""
    lines = [("", *figures)]
    for name in next(iter(figures.values())):
        label = name.replace("_degs", " (°)").replace("_angs", " (Å)").replace("_", " ")
        lines.append((label, *(_cell(name, part[name]) for part in figures.values())))
    return "\n".join(f"{label:<24}" + "".join(f"{cell:>12}" for cell in cells) for label, *cells in lines)


def _cell(name: str, value: float) -> str:
    if name == "particles":
        return f"{int(value):,}"
    return f"{value:.1%}" if name.startswith("share") else f"{value:.3f}"


def write_comparison(folder: str | Path, comparison: PoseComparison, said: list[str]) -> None:
    """Tables and pictures to a folder, each all or nothing, and last a summary with the remarks."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    write_text(folder / CSV, _csv(comparison))
    write_text(folder / UNMATCHED, _unmatched(comparison))
    length, eulers = np.hypot(*comparison.shift_angs.T), comparison.first.eulers_deg[comparison.matched.first]
    histograms, views = new_figure(10.0, 3.8), new_figure(7.5, 4.6)
    draw_differences(histograms, comparison.difference_degs, length)
    draw_views(views, views_of(healpix_pixels(VIEW_ORDER, eulers), comparison.difference_degs))
    save_png(histograms, folder / HISTOGRAMS)
    save_png(views, folder / VIEWS)
    summary = {
        "first": str(comparison.first.path),
        "second": str(comparison.second.path),
        "symmetry": comparison.group.name,
        "only_in_first": len(comparison.matched.only_first),
        "only_in_second": len(comparison.matched.only_second),
        "figures": comparison.figures(),
        "remarks": said,
    }
    write_text(folder / SUMMARY, json.dumps(summary, indent=1))


def _csv(comparison: PoseComparison) -> str:
    rot_tilt = comparison.first.eulers_deg[comparison.matched.first, :2]
    columns = (rot_tilt, comparison.difference_degs[:, None], comparison.shift_angs, comparison.half_set[:, None])
    names = comparison.first.names[comparison.matched.first]
    layout = "%.3f,%.3f,%.4f,%.4f,%.4f,%d,"
    rows = [layout % tuple(row) + _quoted(name) for row, name in zip(np.hstack(columns).tolist(), names, strict=True)]
    return "\n".join([",".join((*POSE_COLUMNS, "image")), *rows, ""])


def _unmatched(comparison: PoseComparison) -> str:
    sides = ((comparison.first, comparison.matched.only_first), (comparison.second, comparison.matched.only_second))
    rows = [f"{_quoted(str(file.path))},{_quoted(name)}" for file, only in sides for name in file.names[only]]
    return "\n".join(["only_in,image", *rows, ""])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name
