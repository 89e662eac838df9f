"""Real images with poses known to be right: does a map of other particles find them?

    python benchmarks/accuracy_real.py --out_dir OUT --real_dir DIR [--resolution_angs 32] [--prefix "nice -n 19"]

DIR holds `particles.star` of tilt images: several images of each particle, which share `rlnGroupNumber`. Particles are split in
four. A map of three quarters is held against the images of the last: their correlation at the known poses and at those of other
images, and the poses that an exhaustive search against the map finds (`cryopares_infer --reference_fname`, no model). Errors and
z stand with standard errors by bootstrap over particles, since images of one particle are not independent.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
import torch
from accuracy_methods import Runner
from accuracy_scores import STATISTICS, errors_degs
from accuracy_sets import ANGLES

from cryopares_core.files import write_text
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.preprocess import circular_mask
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.project import Projector

FOLDS, SEED, RESAMPLES, PERMUTATIONS = 4, 0, 1000, 20
DISC_ANGS = 150.0  # radius; a ribosome is some 260 Å wide
PARTICLE = "rlnGroupNumber"


def fold_of_particles(particles: np.ndarray) -> np.ndarray:
    """A number from 0 to 3 for each image `(n,)`, the same for all images of a particle."""
    names, place = np.unique(particles, return_inverse=True)
    return (np.random.default_rng(SEED).permutation(len(names)) % FOLDS)[place]


def correlations(star: Path, real_dir: Path, map_path: Path, resolution_angs: float) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of images with a map's projections at their own poses `(n,)`, and the mean of that at permuted ones `(n,)`.

    Both are whitened by the images' power, cut to the resolution and to the particle's disc. The images were multiplied by their
    CTF, so that a projection stands in them times the CTF squared.
    """
    table, _ = read_particles(star, real_dir, split_halfs=False)
    rows = np.arange(len(table))
    spectra = torch.fft.rfft2(torch.from_numpy(read_images(table, rows)).float())
    size, pixel_angs = spectra.shape[1], float(table.pixel_size_angs[0])
    shell = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]) * size
    band = (shell > 0) & (shell < size * pixel_angs / resolution_angs)
    whitening = band * _shell_power(spectra, shell.round().long()).rsqrt()
    ctf = ctf_2d(ctf_tensors(table.ctf, rows), pixel_angs, size)
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)).float()
    views = Projector(torch.from_numpy(read_map(map_path)[0])).project_rfft(poses)
    disc = circular_mask(size, DISC_ANGS / pixel_angs)
    data = _unit(torch.fft.irfft2(spectra * whitening) * disc)

    def against(order: np.ndarray) -> torch.Tensor:
        expected = torch.fft.irfft2(views[order] * ctf.square() * whitening) * disc
        return (data * _unit(expected)).sum(dim=(1, 2))

    permuted = [against(np.random.default_rng(seed).permutation(rows)) for seed in range(PERMUTATIONS)]
    return against(rows).numpy(), torch.stack(permuted).mean(dim=0).numpy()


def _shell_power(spectra: torch.Tensor, shell: torch.Tensor) -> torch.Tensor:
    """The images' mean power in each frequency's shell, as `shell`."""
    power = spectra.abs().square().mean(dim=0).flatten()
    total = torch.zeros(int(shell.max()) + 1).index_add(0, shell.flatten(), power)
    return (total / torch.bincount(shell.flatten()))[shell]


def _unit(images: torch.Tensor) -> torch.Tensor:
    return images / images.square().sum(dim=(1, 2), keepdim=True).sqrt()


def search_fold(real_dir: Path, out: Path, fold: int, resolution_angs: float, run: Runner) -> pd.DataFrame:
    """One row for each image of a fold: particle, correlations, and the error of the pose that the search finds."""
    kept = out / "images.csv"
    if kept.exists():
        return pd.read_csv(kept)
    blocks = starfile.read(real_dir / "particles.star", always_dict=True)
    rows = blocks["particles"]
    own = fold_of_particles(rows[PARTICLE].to_numpy()) == fold
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("others", rows[~own]), ("own", rows[own]), ("blind", rows[own].drop(columns=ANGLES))):
        starfile.write({**blocks, "particles": table}, out / f"{name}.star", overwrite=True)
    folder = ["--particles_dir", str(real_dir)]
    making = ["--particles_star_fname", str(out / "others.star"), *folder, "--out_dir", str(out / "map")]
    run.program("reconstruct", making, out / "map.log")
    path = out / "map" / "map.mrc"
    finding = ["--particles_star_fname", str(out / "blind.star"), *folder, "--results_dir", str(out / "found")]
    finding += ["--reference_fname", str(path), "--resolution_angs", str(resolution_angs)]
    run.program("infer", finding, out / "infer.log")
    errors = errors_degs(out / "found" / "particles.star", out / "own.star", "C1", set())
    at_own, at_others = correlations(out / "own.star", real_dir, path, resolution_angs)
    names = starfile.read(out / "found" / "particles.star", always_dict=True)["particles"]["rlnImageName"]
    table = rows[own].assign(own=at_own, other=at_others).set_index("rlnImageName").loc[names]
    table = table.assign(error=errors)[[PARTICLE, "own", "other", "error"]].reset_index()
    write_text(kept, table.to_csv(index=False))
    return table


def summary(images: pd.DataFrame) -> dict[str, list[float]]:
    """z of the correlations, and the errors, each with its standard error by bootstrap over particles."""
    random = np.random.default_rng(SEED)
    groups = [group for _, group in images.groupby(PARTICLE)]

    def statistics(table: pd.DataFrame) -> dict[str, float]:
        gain, errors = (table["own"] - table["other"]).to_numpy(), table["error"].to_numpy()
        z = gain.mean() / gain.std() * len(gain) ** 0.5
        return {"z": float(z), **{name: float(of(errors)) for name, of in STATISTICS.items()}}

    resampled = [
        statistics(pd.concat([groups[k] for k in random.integers(len(groups), size=len(groups))])) for _ in range(RESAMPLES)
    ]
    return {name: [value, float(np.std([one[name] for one in resampled]))] for name, value in statistics(images).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--real_dir", type=Path, required=True)
    parser.add_argument("--resolution_angs", type=float, default=32.0)
    parser.add_argument("--prefix", default="", help="options before each command, such as 'nice -n 19'")
    arguments = parser.parse_args()
    run, real_dir = Runner(tuple(shlex.split(arguments.prefix))), arguments.real_dir.absolute()
    out_dir = arguments.out_dir.absolute() / f"real_{arguments.resolution_angs:g}A"
    folds = [search_fold(real_dir, out_dir / f"fold{k}", k, arguments.resolution_angs, run) for k in range(FOLDS)]
    measured = summary(pd.concat(folds, ignore_index=True))
    write_text(out_dir / "summary.json", json.dumps(measured))
    print(measured)


if __name__ == "__main__":
    main()
