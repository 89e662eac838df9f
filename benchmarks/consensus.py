"""Errors of all particles against errors of those whose half models agree."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from cryopares_core.commands.infer import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.inference.consensus import COLUMN
from cryopares_core.particles.star import read_particles

LIMITS_DEGS = (180.0, 10.0, 5.0, 3.0)


def measure(star: Path, model: Path, out: Path, evidence: str) -> list[str]:
    """A row for each limit: share kept, mean and median error, share under 5 degrees."""
    begun = time.process_time()
    words = ["--particles_star_fname", star, "--checkpoint_dir", model, "--results_dir", out, "--evidence", evidence]
    assert main([*map(str, words), "--consensus", "True", "--n_threads", "1", "--accelerator", "cpu"]) == 0
    seconds = time.process_time() - begun
    truth, found = (read_particles(path, star.parent)[0] for path in (star, out / "particles.star"))
    first, second = (euler_degs_to_matrix(torch.from_numpy(table.eulers_deg).double()) for table in (truth, found))
    error, apart = pose_error_degs(first, second).numpy(), np.array(found.particles[COLUMN], dtype=float)
    rows = []
    for limit in LIMITS_DEGS:
        some = error[apart < limit] if limit < 180 else error
        numbers = f"{len(some) / len(error):.1%} | {some.mean():.2f}° | {np.median(some):.2f}° | {(some < 5).mean():.1%}"
        rows.append(
            f"| {star.parent.name}, {evidence} | {'all' if limit == 180 else f'{limit:g}°'} | {numbers} | {seconds:.0f} s |"
        )
    return rows


def run() -> None:
    """Print a table for each set and evidence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stars", nargs="+", type=Path, help="particles with true poses")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--evidence", nargs="+", default=["network", "both"])
    asked = parser.parse_args()
    rows = [
        row
        for star in asked.stars
        for evidence in asked.evidence
        for row in measure(star, asked.model, asked.out / f"{star.parent.name}_{evidence}", evidence)
    ]
    print(  # noqa: T201 -- a table for the terminal
        "| | disagreement below | kept | mean error | median error | under 5° | processor |",
        "|---|---|---|---|---|---|---|",
        *rows,
        sep="\n",
    )


if __name__ == "__main__":
    run()
