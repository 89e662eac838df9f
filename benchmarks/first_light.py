"""How far a network gets in ten minutes: error, steps a second, memory, start-up, with the real command on a real set.

    python benchmarks/first_light.py --particles_dir SET --out_dir OUT [--minutes 10]

SET is a folder with particles.star, as cryopares_simulate writes it. A short run measures the pace, from which the number of
epochs of the long run follows. Prints one line for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

NETWORK = [
    "models.image2sphere.lmax=8",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=128",
    "models.image2sphere.so3components.s2conv.f_out=32",
    "models.image2sphere.so3components.so3outputgrid.hp_order=3",
]
PACE_STEPS = 30


def train(arguments: argparse.Namespace, out_dir: Path, *options: str) -> tuple[str, float]:
    """Run the command; returns what it printed and the seconds that it took."""
    command = [sys.executable, "-m", "cryopares_core.commands.train", "--symmetry", arguments.symmetry, "--split_halfs", "False"]
    command += ["--particles_star_fname", f"{arguments.particles_dir}/particles.star", "--particles_dir", arguments.particles_dir]
    command += ["--train_save_dir", str(out_dir), *options, "--config", *NETWORK]
    command += [f"datamanager.particlesDataset.sampling_rate_angs_for_nnet={arguments.sampling_rate}"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout, time.perf_counter() - started


def seconds_of(output: str, phase: str) -> float:
    """The seconds of one line of the table of phases."""
    found = re.search(rf"^  {phase} +([\d.]+) s", output, re.MULTILINE)
    return float(found[1]) if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles_dir", required=True)
    parser.add_argument("--out_dir", required=True)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--sampling_rate", type=float, default=6.4)
    parser.add_argument("--minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    out_dir = Path(arguments.out_dir)
    output, _ = train(arguments, out_dir / "pace", "--n_epochs", "1", "--overfit_batches", str(PACE_STEPS))
    pace = PACE_STEPS / seconds_of(output, "training steps")
    steps_an_epoch = int(re.search(r"([\d,]+) particles to train on", output)[1].replace(",", "")) // 16
    epochs = max(1, round(arguments.minutes * 60 * pace / steps_an_epoch))
    output, wall = train(arguments, out_dir / "run", "--n_epochs", str(epochs))
    version = max((out_dir / "run").glob("version_*"), key=lambda path: path.stat().st_mtime)
    last = json.loads((version / "allParticles" / "metrics.jsonl").read_text().splitlines()[-1])
    start = sum(seconds_of(output, phase) for phase in ("start-up", "reading", "preparing"))
    memory = re.search(r"Peak memory ([\d.]+) GB", output)[1]
    row = [
        f"training {seconds_of(output, 'training steps') / 60:.1f} min ({epochs} epochs, {last['step']} steps of 64)",
        f"error mean {last['val_geo_degs']:.1f}°, median {last['val_median_geo_degs']:.1f}°",
        f"{last['step'] / seconds_of(output, 'training steps'):.2f} steps/s",
        f"peak memory {memory} GB",
        f"start-up to the first step {start:.1f} s (of {wall / 60:.1f} min in all)",
    ]
    print(" | ".join(row))  # noqa: T201


if __name__ == "__main__":
    main()
