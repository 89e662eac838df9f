"""Half maps by this program and by `relion_reconstruct`, of the same particles at the same poses, behind the same mask.

    python benchmarks/maps_against_relion.py --folder SET [--symmetry D7] [--mask_share 0.3]

SET holds `particles.star` and `reference.mrc`, the map that the particles show, as `cryopares_simulate` writes them. RELION's maps
are left there. Correlations are those of the half maps and, of each half, with the reference; below them stand the shells' means
up to the resolution, where they should be higher than RELION's.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import resource
import subprocess
import time
from pathlib import Path

import torch
from torch import Tensor

from cryopares_core.particles.star import read_particles
from cryopares_core.volumes.fsc import resolution_angs, shell_correlation
from cryopares_core.volumes.half_maps import reconstruct_half_maps
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.masks import soft_sphere


def by_relion(folder: Path, symmetry: str) -> tuple[list[Tensor], float]:
    """RELION's half maps, and the processor time that they took in seconds."""
    started, maps = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, []
    for half in (1, 2):
        name = f"relion_half{half}.mrc"
        words = ["relion_reconstruct", "--i", "particles.star", "--o", name, "--ctf", "--sym", symmetry, "--subset", str(half)]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
        maps.append(torch.from_numpy(read_map(folder / name)[0]))
    return maps, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started


def curves(halves: list[Tensor], truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """By shell, the correlation of the halves, and the mean of theirs with the truth."""
    first, second, expected = halves[0] * mask, halves[1] * mask, truth * mask
    with_truth = [shell_correlation(half, expected) for half in (first, second)]
    return shell_correlation(first, second), (with_truth[0] + with_truth[1]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--mask_share", type=float, default=0.3, help="radius of the soft sphere as a share of the box")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = read_particles(arguments.folder / "particles.star")[0]
    truth = torch.from_numpy(read_map(arguments.folder / "reference.mrc")[0])
    started = time.process_time()
    found = reconstruct_half_maps(table, arguments.symmetry)
    ours_s = time.process_time() - started
    theirs, theirs_s = by_relion(arguments.folder, arguments.symmetry)
    mask = soft_sphere(len(truth), arguments.mask_share * len(truth), 3.0)
    ours, other = (curves(halves, truth, mask) for halves in ([found.half1, found.half2], theirs))
    size_angs = len(truth) * found.pixel_size_angs
    print(f"{len(table):,} particles; seconds of the processor: {ours_s:.1f} with FSC and whole map, RELION {theirs_s:.1f}")
    print("| shell | halves: ours, RELION | with the truth: ours, RELION |\n|---|---|---|")
    last = int(size_angs / resolution_angs(ours[0], size_angs)) + 1
    for shell in range(2, last + 4):
        half, true = (f"{mine[shell]:.4f}, {relions[shell]:.4f}" for mine, relions in zip(ours, other, strict=True))
        print(f"| {shell} | {half} | {true} |")
    half, true = ((mine - relions)[2 : last + 1].mean() for mine, relions in zip(ours, other, strict=True))
    print(f"| mean gain up to {last} | {half:+.4f} | {true:+.4f} |")
    for name, threshold, both in (("halves", 0.143, (ours[0], other[0])), ("truth", 0.5, (ours[1], other[1]))):
        print(f"{name}, {threshold}: {', '.join(f'{resolution_angs(curve, size_angs, threshold):.2f} Å' for curve in both)}")


if __name__ == "__main__":
    main()
