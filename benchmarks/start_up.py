"""How long the command takes to its first training step at the guide's defaults, with nothing cached.

    python benchmarks/start_up.py --out_dir OUT

Simulates 400 particles of 160 px, then trains one step on them. Imports are counted apart: they are Python's.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path


def run(*words: str) -> tuple[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out_dir", required=True)
    folder = Path(parser.parse_args().out_dir)
    simulate = ["cryopares_simulate", "--phantom", "--n_particles", "400", "--image_size_px", "160", "--sampling_rate", "2"]
    run(*simulate, "--snr", "0.1", "--out_dir", str(folder / "set"), "--overwrite")
    _, imports = run("cryopares_core.training.run")
    train = ["cryopares_train", "--symmetry", "C1", "--particles_star_fname", str(folder / "set" / "particles.star")]
    train += ["--train_save_dir", str(folder / "run"), "--n_epochs", "1", "--overfit_batches", "1", "--batch_size", "4"]
    output, wall = run(*train, "--split_halfs", "False")
    phases = dict(re.findall(r"^  (\S.*?) +([\d.]+) s +\d+%", output, re.MULTILINE))
    print(f"imports {imports:.1f} s, the whole run {wall:.1f} s")
    for name, seconds in phases.items():
        print(f"  {name:<24}{seconds:>6} s")


if __name__ == "__main__":
    main()
