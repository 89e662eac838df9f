"""RELION's 3D auto-refine, run for real: three MPI processes of one thread each, from particles without angles and a reference."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from accuracy_methods import Runner
from accuracy_sets import Study

PROGRAMS = ("relion_refine_mpi", "mpirun", "time", "chrt")
# The first process shares out the particles and waits busily: it gets idle processor time alone, and its time does not count.
RANK = """
idle=
[ "$OMPI_COMM_WORLD_RANK" = 0 ] && idle="chrt --idle 0"
exec time -f "%U %S" -o {times}$OMPI_COMM_WORLD_RANK $idle relion_refine_mpi "$@"
"""
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Local searches start at 3.7 degrees, not at 1.8 as by default: global iterations at 3.7 degrees take a second or more an image.
OPTIONS = (
    "--auto_refine --split_random_halves --firstiter_cc --ini_high 30 --ctf --ctf_corrected_ref --flatten_solvent --zero_mask "
    "--oversampling 1 --healpix_order 2 --auto_local_healpix_order 3 --offset_range 5 --offset_step 2 --low_resol_join_halves 40 "
    "--norm --scale --pool 30 --pad 2 --dont_combine_weights_via_disc --j 1 --random_seed 1"
)


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


def auto_refine(study: Study, star: Path, particles_dir: Path, reference: Path, out: Path, run: Runner) -> tuple[Path, float]:
    """The STAR file with the final poses, and the processor seconds of the two processes that refine.

    Parameters
    ----------
    star : without angles; image names start from `particles_dir`, as the working folder of RELION
    reference : folder with `map.mrc`, low-pass filtered to 30 Å by RELION
    """
    out.mkdir(parents=True, exist_ok=True)
    times, final = out.absolute() / "seconds.rank", out / "run_data.star"
    if not final.exists():
        words = ["--i", str(star.absolute()), "--o", str(out.absolute() / "run"), "--ref", str(reference.absolute() / "map.mrc")]
        words += ["--sym", study.symmetry, "--particle_diameter", str(study.diameter_angs), *OPTIONS.split()]
        script = ["bash", "-c", RANK.format(times=times), "rank", *words]
        launcher = ["env", "-C", str(particles_dir), "mpirun", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
        start = replace(run, prefix=(*run.prefix, *launcher, "--bind-to", "none", "-n", "3"))
        start(script, out / "log.txt", **(AS_ROOT if os.geteuid() == 0 else {}))
    ranks = [_seconds(times.with_name(f"{times.name}{rank}")) for rank in (1, 2)]
    return final, sum(ranks)


def _seconds(path: Path) -> float:
    return sum(float(value) for value in path.read_text().split())
