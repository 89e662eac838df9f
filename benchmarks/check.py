"""How long Scipion's form takes to look at a whole set of particles, and `cryopares_check` at a training.

    python benchmarks/check.py --folder SCRATCH [--particles 100000]

The set is that of benchmarks/convert_particles.py, with coordinates and stacks of noise (sparse files: only the pictures that the
form reads are there in full). The first look reads all rows, the second finds its answer kept; processor time, one thread.
`cryopares_check` is run on simulated particles, with a small network and with the default one.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("SCIPION_DOMAIN", "pwem")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from convert_particles import IN_A_STACK, make_set
from pwem.objects import SetOfParticles

from cryopares_core.particles.mrc import HEADER_BYTES
from cryopares_plugin.convert import particle_problems, particle_warnings

BOX, PIXEL_ANGS, IN_A_MICROGRAPH = 256, 1.1, 250
SMALL = ["lmax=5", "so3components.i2sprojector.sphere_fdim=64", "so3components.s2conv.f_out=16"]
SMALL += ["so3components.so3outputgrid.hp_order=2", "imageencoder.unet.width=16"]


def write_stack(path: Path) -> None:
    """A header, and as many bytes as it promises."""
    header = np.zeros(HEADER_BYTES // 4, np.int32)
    header[:4], header[7:10] = (BOX, BOX, IN_A_STACK, 2), (BOX, BOX, IN_A_STACK)
    header[10:13] = np.full(3, BOX * PIXEL_ANGS, np.float32).view(np.int32)
    header[22], header[52:54] = 1, np.frombuffer(b"MAP DD\0\0", np.int32)
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.truncate(HEADER_BYTES + 4 * BOX * BOX * IN_A_STACK)


def scipions_set(folder: Path, count: int) -> Path:
    """A set of so many particles, and its stacks below the folder."""
    path = folder / f"particles_{count}.sqlite"
    if path.exists():
        return path
    make_set(path, count)
    rng = np.random.default_rng(0)
    with closing(sqlite3.connect(path)) as connection:
        columns = dict(connection.execute("SELECT label_property, column_name FROM Classes"))
        files = [row[0] for row in connection.execute(f"SELECT DISTINCT {columns['_filename']} FROM Objects")]
        names = [columns[f"_coordinate.{name}"] for name in ("_micName", "_x", "_y")]
        places = rng.integers(100, 4000, (count, 2)).tolist()
        rows = ((f"mic_{row // IN_A_MICROGRAPH}.mrc", x, y, row + 1) for row, (x, y) in enumerate(places))
        connection.executemany(f"UPDATE Objects SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?", rows)
        connection.commit()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_stack(folder / file)
    return path


def timed(name: str, look: Callable[[], Any]) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    found = look()
    print(f"| {name} | {time.process_time() - cpu:.2f} | {time.perf_counter() - started:.2f} | {len(found)} |", flush=True)


def forms(folder: Path, count: int) -> None:
    """Problems and warnings, as `_validate` and `_warnings` ask for them, each with the set opened anew."""
    path = scipions_set(folder, count)
    print(f"{count:,} particles\n\n| | processor s | s | sentences |\n|---|---|---|---|")
    for turn in ("first", "again"):
        for name, look in (("_validate", particle_problems), ("_warnings", particle_warnings)):
            particles = SetOfParticles(filename=str(path))
            particles.loadAllProperties()
            timed(f"{name}, {turn}", lambda: look(particles, half_sets=True, project_path=str(folder)))  # noqa: B023


def commands(folder: Path) -> None:
    """The command on 20,000 pictures of 64 px."""
    star = folder / "simulated" / "particles.star"
    module, threads = [sys.executable, "-m"], ["--n_threads", "1"]
    if not star.exists():
        words = ["cryopares_simulate", "--phantom", "--n_particles", "20000", "--snr", "0.1", "--sampling_rate", "4"]
        subprocess.run([*module, *words, "--out_dir", str(star.parent)], check=True, stdout=subprocess.DEVNULL)
    words = ["cryopares_check", "--symmetry", "C1", "--particles_star_fname", str(star), "--train_save_dir", str(folder / "out")]
    small = [f"models.image2sphere.{name}" for name in SMALL]
    for name, config in (("small network", ["--config", *small]), ("default network", [])):
        started = time.perf_counter()
        done = subprocess.run([*module, *words, *threads, *config], check=True, stdout=subprocess.PIPE, text=True)
        print(
            f"\ncryopares_check, {name}: {time.perf_counter() - started:.1f} s\n{done.stdout[done.stdout.index('Settings and') :]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--particles", type=int, default=100_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    forms(arguments.folder, arguments.particles)
    commands(arguments.folder)


if __name__ == "__main__":
    main()
