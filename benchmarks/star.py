"""Time and memory of reading and writing a RELION particle file of a million rows and 25 columns.

    python benchmarks/star.py --rows 1000000 --stacks 30000 --out_dir OUT [--only read …]

The file has RELION 3.1's layout, two optics groups and columns in RELION's fixed widths; its stacks are sparse files with true
headers. Each case runs in a process of its own: seconds of wall and processor time, and the process's peak memory (VmHWM), which
holds the imports as well. `starfile_read` and `starfile_write` are the package's own functions on the same file, for comparison.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

COLUMNS = {
    "rlnCoordinateX": "%12.6f",
    "rlnCoordinateY": "%12.6f",
    "rlnImageName": "%06d@Extract/job012/Movies/FoilHole_%08d_Data_fractions.mrcs",
    "rlnMicrographName": "MotionCorr/job002/Movies/FoilHole_%08d_Data_fractions.mrc",
    "rlnOpticsGroup": "%12d",
    "rlnRandomSubset": "%12d",
    "rlnClassNumber": "%12d",
    "rlnGroupNumber": "%12d",
    "rlnAngleRot": "%12.6f",
    "rlnAngleTilt": "%12.6f",
    "rlnAnglePsi": "%12.6f",
    "rlnOriginXAngst": "%12.6f",
    "rlnOriginYAngst": "%12.6f",
    "rlnDefocusU": "%12.6f",
    "rlnDefocusV": "%12.6f",
    "rlnDefocusAngle": "%12.6f",
    "rlnPhaseShift": "%12.6f",
    "rlnCtfBfactor": "%12.6f",
    "rlnCtfScalefactor": "%12.6f",
    "rlnCtfMaxResolution": "%12.6f",
    "rlnCtfFigureOfMerit": "%12.6f",
    "rlnLogLikeliContribution": "%12e",
    "rlnMaxValueProbDistribution": "%12.6f",
    "rlnNrOfSignificantSamples": "%12d",
    "rlnAutopickFigureOfMerit": "%12.6f",
}
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
opticsGroup1            1   300.000000     2.700000     0.100000     1.060000          128            2
opticsGroup2            2   300.000000     2.700000     0.100000     1.060000          128            2


# version 30001

data_particles

loop_
"""
BOX, PIXEL_SIZE_ANGS, IN_A_BLOCK = 128, 1.06, 50_000
POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


def make_star(path: Path, count: int, stacks: int) -> None:
    """The file, `count` rows over `stacks` stacks."""
    rng, template = np.random.default_rng(0), " ".join(COLUMNS.values()) + " \n"
    with open(path, "w") as file:
        file.write(OPTICS + "".join(f"_{name} #{place}\n" for place, name in enumerate(COLUMNS, start=1)))
        for start in range(0, count, IN_A_BLOCK):
            rows = np.arange(start, min(count, start + IN_A_BLOCK))
            file.writelines(template % row for row in zip(*random_columns(rows, count, stacks, rng), strict=True))
        file.write("\n")


def random_columns(rows: np.ndarray, count: int, stacks: int, rng: np.random.Generator) -> list[list]:
    """A list for each field of the rows' template: names have one or two."""
    n, stack = len(rows), rows * stacks // count
    first_of_stack = -(-stack * count // stacks)

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, n)

    image = [rows - first_of_stack + 1, stack, stack]
    groups = [stack * 2 // stacks + 1, rng.integers(1, 3, n), np.ones(n, int), stack + 1]
    poses = [uniform(-180, 180), np.degrees(np.arccos(uniform(-1, 1))), uniform(-180, 180), uniform(-9, 9), uniform(-9, 9)]
    defocus = uniform(8000, 25000)
    ctf = [
        defocus,
        defocus - uniform(0, 400),
        uniform(0, 180),
        np.zeros(n),
        np.zeros(n),
        np.ones(n),
        uniform(3, 5),
        uniform(0, 0.3),
    ]
    quality = [uniform(9e5, 1.1e6), uniform(0, 1), rng.integers(1, 200, n), uniform(-1, 5)]
    fields = [uniform(100, 3900), uniform(100, 3900), *image, *groups, *poses, *ctf, *quality]
    return [field.tolist() for field in fields]


def make_stacks(folder: Path, count: int, stacks: int) -> None:
    """Sparse files with the headers of stacks."""
    for stack in range(stacks):
        n = -(-(stack + 1) * count // stacks) - -(-stack * count // stacks)
        path = folder / f"Extract/job012/Movies/FoilHole_{stack:08d}_Data_fractions.mrcs"
        path.parent.mkdir(parents=True, exist_ok=True)
        words = np.zeros(256, "<i4")
        words[:4], words[7:10] = (BOX, BOX, n, 2), (BOX, BOX, n)
        words.view("<f4")[10:13] = BOX * PIXEL_SIZE_ANGS, BOX * PIXEL_SIZE_ANGS, n * PIXEL_SIZE_ANGS
        words.view("u1")[208:216] = np.frombuffer(b"MAP DD\0\0", np.uint8)
        with open(path, "wb") as file:
            file.write(words.tobytes())
            file.truncate(1024 + n * BOX * BOX * 4)


def measured(action: Callable[[], object]) -> dict[str, float]:
    """Runs it; its seconds, and the highest memory of the process so far."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    found = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
    peak_kb = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    return {**{name: round(value, 2) for name, value in found.items()}, "peak_mb": int(peak_kb) // 1024}


def run_case(name: str, star: Path) -> dict[str, float]:
    """Measures one case in this process. What is written is compared with what was read afterwards."""
    if name.startswith("starfile"):
        import starfile

        if name == "starfile_read":
            return measured(lambda: starfile.read(star))
        blocks = starfile.read(star)
        return measured(lambda: starfile.write(blocks, star.with_name("written.star"), overwrite=True))
    from cryopares_core.particles.star import read_particles

    if name.startswith("read"):
        return measured(lambda: read_particles(star, check_files=name == "read_and_headers"))
    table, _ = read_particles(star, check_files=False)
    rng = np.random.default_rng(1)
    poses = dict(zip(POSES, np.concatenate([table.eulers_deg, table.shifts_angs], axis=1).T + 1, strict=True))
    half = np.sort(rng.permutation(len(table))[: len(table) // 2])
    cases = {
        "write": lambda: table.write_star(star.with_name("written.star")),
        "write_poses": lambda: table.write_star(star.with_name("written.star"), poses),
        "write_half": lambda: table.subset(half).write_star(star.with_name("written.star")),
    }
    return measured(cases[name])


CASES = ("read", "read_and_headers", "write", "write_half", "write_poses", "starfile_read", "starfile_write")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--stacks", type=int, default=30_000)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--case", choices=CASES, help="run this one here, in this process")
    arguments = parser.parse_args()
    folder = arguments.out_dir / f"{arguments.rows}_in_{arguments.stacks}"
    star = folder / "particles.star"
    if arguments.case:
        print(json.dumps({"case": arguments.case, **run_case(arguments.case, star)}))  # noqa: T201
        return
    if not star.exists():
        make_stacks(folder, arguments.rows, arguments.stacks)
        make_star(star, arguments.rows, arguments.stacks)
    for case in arguments.only:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--case", case], check=True)


if __name__ == "__main__":
    main()
