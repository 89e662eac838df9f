"""Time and memory of writing a Scipion set of particles as a STAR file.

    python benchmarks/convert_particles.py --particles 1000000 --out_dir OUT [--writer relion]

The set is made through pwem's objects for its first particle and by SQL for the others, which takes about 15 s a million. Its
particles have CTF, pose, coordinates and half set, and an acquisition with RELION's optics table; their stacks do not exist, since
no picture is read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

os.environ.setdefault("SCIPION_DOMAIN", "pwem")

from pwem.objects import Acquisition, Coordinate, CTFModel, Float, Integer, Particle, SetOfParticles, Transform

IN_A_STACK, IN_A_BLOCK = 300, 20_000
OPTICS = """
data_optics

loop_
_rlnOpticsGroupName
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
krios 1 300 2.7 0.1 1.1 256
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--writer", choices=("ours", "relion"), default="ours")
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.out_dir / f"particles_{arguments.particles}.sqlite"
    if not path.exists():
        make_set(path, arguments.particles)
    particles = SetOfParticles(filename=str(path))
    particles.loadAllProperties()
    before, started = peak_mb(), time.perf_counter()
    target = arguments.out_dir / f"{arguments.writer}.star"
    write(arguments.writer, particles, target)
    seconds = time.perf_counter() - started
    found = {"writer": arguments.writer, "particles": arguments.particles, "seconds": round(seconds, 1)}
    found.update(particles_per_s=round(arguments.particles / seconds), peak_mb_before=before, peak_mb=peak_mb())
    found.update(set_mb=path.stat().st_size // 1_000_000, star_mb=target.stat().st_size // 1_000_000)
    print(json.dumps(found))  # noqa: T201


def write(writer: str, particles: SetOfParticles, target: Path) -> None:
    if writer == "relion":
        from relion.convert import writeSetOfParticles

        writeSetOfParticles(particles, str(target))
    else:
        from cryopares_plugin.convert import write_particles

        write_particles(particles, str(target))


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def make_set(path: Path, count: int) -> None:
    """One particle through pwem, which makes the tables; the others copy its row with their own pose, CTF and place."""
    particles = SetOfParticles(filename=str(path))
    particles.setSamplingRate(1.1)
    particles.setDim((256, 256, 1))
    particles.setAlignmentProj()
    particles.setHasCTF(True)
    acquisition = Acquisition(magnification=10000, voltage=300.0, sphericalAberration=2.7, amplitudeContrast=0.1)
    acquisition.opticsGroupInfo.set(OPTICS)
    particles.setAcquisition(acquisition)
    particles.append(one_particle(acquisition))
    particles.write()
    particles.close()
    with closing(sqlite3.connect(path)) as connection:
        columns = dict(connection.execute("SELECT label_property, column_name FROM Classes"))
        varied = [columns[label] for label in VARIED]
        names = [row[1] for row in connection.execute("PRAGMA table_info(Objects)")]
        values = ", ".join("?" if name in ["id", *varied] else name for name in names)
        statement = f"INSERT INTO Objects SELECT {values} FROM Objects WHERE id = 1"
        order = sorted(range(len(varied)), key=lambda place: names.index(varied[place]))
        rows = rows_after_the_first(count)
        connection.executemany(statement, ((row[0], *(row[1 + place] for place in order)) for row in rows))
        connection.commit()


VARIED = ("_index", "_filename", "_transform._matrix", "_ctfModel._defocusU", "_ctfModel._defocusV", "_rlnRandomSubset")


def one_particle(acquisition: Acquisition) -> Particle:
    particle = Particle()
    particle.setLocation(1, "Runs/000002_ProtImport/extra/stack_000000.mrcs")
    particle.setAcquisition(acquisition)
    particle.setCTF(CTFModel(defocusU=12000.0, defocusV=11500.0, defocusAngle=30.0))
    particle.setTransform(Transform(np.eye(4)))
    coordinate = Coordinate(x=1000, y=2000)
    coordinate.setMicName("micrograph_000000.mrc")
    particle.setCoordinate(coordinate)
    particle._rlnRandomSubset = Integer(1)
    particle._rlnMaxValueProbDistribution = Float(0.3)
    return particle


def rows_after_the_first(count: int) -> Iterator[tuple]:
    """Rows `(id, *VARIED)` of the particles after the first."""
    random = np.random.default_rng(0)
    for start in range(2, count + 1, IN_A_BLOCK):
        ids = range(start, min(count + 1, start + IN_A_BLOCK))
        turns = np.linalg.qr(random.normal(size=(len(ids), 3, 3)))[0]
        matrices = np.tile(np.eye(4), (len(ids), 1, 1))
        matrices[:, :3, :3] = turns * np.sign(np.linalg.det(turns))[:, None, None]
        matrices[:, :2, 3] = random.normal(size=(len(ids), 2))
        defocus = random.uniform(8000, 25000, len(ids)).tolist()
        for number, matrix, u in zip(ids, matrices, defocus, strict=True):
            stack = f"Runs/000002_ProtImport/extra/stack_{number // IN_A_STACK:06d}.mrcs"
            yield number, number % IN_A_STACK + 1, stack, json.dumps(matrix.tolist()), u, u - 300, number % 2 + 1


if __name__ == "__main__":
    main()
