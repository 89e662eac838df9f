"""The demonstration behind `make demo`: simulate particles, train, and find the poses and the map of particles never seen."""

import json
import shlex
import sys
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from cryopares_core.commands import compare_poses, infer, simulate, train

# Small enough for two cores: a sampling of 8 Å, low degrees, a coarse output grid (poses are refined off it).
NETWORK = [
    "datamanager.particlesDataset.sampling_rate_angs_for_nnet=8",
    "models.image2sphere.lmax=8",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=128",
    "models.image2sphere.so3components.s2conv.f_out=32",
    "models.image2sphere.so3components.so3outputgrid.hp_order=3",
]
MAP = ["--phantom", "--image_size_px", "64", "--sampling_rate", "5", "--snr", "2"]
RESOLUTION_ANGS = "16"  # of the training map, about


def main(argv: Optional[Sequence[str]] = None) -> int:
    """`python -m cryopares_core.commands.demo [folder]`; the folder is `demo_output` if none is given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    folder = Path(arguments[0] if arguments else "demo_output")
    return _simulate(folder / "particles", "2000", "1") or _simulate(folder / "new_particles", "500", "2") or _use(folder)


def _simulate(out_dir: Path, count: str, seed: str) -> int:
    return _run(simulate.main, "simulate", [*MAP, "--n_particles", count, "--seed", seed, "--out_dir", str(out_dir), "--overwrite"])


def _use(folder: Path) -> int:
    """Train, and find the poses of the new particles, whose own ones are not looked at but to compare in the end."""
    words = ["--symmetry", "C1", *_particles(folder / "particles"), "--train_save_dir", str(folder / "run")]
    code = _run(train.main, "train", [*words, "--n_epochs", "5", "--batch_size", "64", "--config", *NETWORK])
    if code:
        return code
    version = _last_version(folder / "run")
    new, found = folder / "new_particles", folder / "found" / version.name
    words = [*_particles(new), "--checkpoint_dir", str(version), "--results_dir", str(found)]
    words += ["--refine", "--resolution_angs", RESOLUTION_ANGS, "--reconstruct"]
    stars, differences = [str(found / "particles.star"), str(new / "particles.star")], found / "differences"
    code = _run(infer.main, "infer", words)
    code = code or _run(compare_poses.main, "compare_poses", [*stars, "--symmetry", "C1", "--out_dir", str(differences)])
    if not code:
        sys.stdout.write(_words(version, found, differences))
    return code


def _last_version(folder: Path) -> Path:
    return max(folder.glob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def _particles(folder: Path) -> List[str]:
    return ["--particles_star_fname", str(folder / "particles.star"), "--particles_dir", str(folder)]


def _run(command: Callable[[Sequence[str]], int], name: str, options: List[str]) -> int:
    """Show a command as a user would type it, and run it; returns its exit code."""
    sys.stdout.write(f"\n$ cryopares_{name} {shlex.join(options)}\n")
    sys.stdout.flush()
    return command(options)


def _words(version: Path, found: Path, differences: Path) -> str:
    """What came out, and where to look."""
    angles = json.loads((differences / "comparison.json").read_text(encoding="utf-8"))["figures"]["all"]
    resolution = json.loads((found / "reconstruction" / "reconstruction.json").read_text(encoding="utf-8"))["resolution_angs"]
    return (
        f"\n{angles['particles']:.0f} particles that the network never saw: median error {angles['median_degs']:.2f}°, "
        f"{angles['share_under_5_degs']:.1%} under 5°; their map has {resolution:.1f} Å\n"
        f"Look at {version / 'report.html'}\n    and {found / 'report.html'}\n    and {differences / 'pose_differences.png'}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
