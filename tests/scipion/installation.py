"""A Scipion installation of its own, in a temporary folder, and a project in it with simulated particles."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
N_PARTICLES = 240
SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")  # not on the path of every user
# A network that trains in seconds; good for nothing else.
TINY = "models.image2sphere.lmax=4 models.image2sphere.so3components.i2sprojector.sphere_fdim=32 "
TINY += "models.image2sphere.so3components.s2conv.f_out=8 models.image2sphere.so3components.so3outputgrid.hp_order=1 "
TINY += "datamanager.num_augmented_copies_per_batch=2"
# The same on the form, on coarser pictures: about a second an epoch.
QUICK = {"lmax": 2, "sphere_fdim": 8, "f_out": 4, "so3outputgrid_hp_order": 1, "num_augmented_copies_per_batch": 1}
QUICK |= {"sampling_rate_angs_for_nnet": 20, "image_size_px_for_nnet": 16}
QUICK |= {"batch_size": 16, "useGpu": False, "numberOfThreads": 1}


@dataclass(frozen=True)
class Installation:
    """Where Scipion lives, and the environment variables that say so."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        # Scipion starts `python` from the path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"SCIPION_HOME": str(self.folder / "home"), "SCIPION_USER_DATA": str(self.folder / "data"), "PATH": path}
        fixed = {
            "SCIPION_NOTIFY": "False",
            "SCIPION_DOMAIN": "pwem",
            "NO_COLOR": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        kept = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "DISPLAY")}
        return {**kept, **own, **fixed}

    def run(self, *command: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess:
        """A command in Scipion's environment, from its folder."""
        environment = {**self.variables, **variables}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout)

    def python(self, code: str, *arguments: str, timeout: float = 300, **variables: str) -> str:
        """What Python code prints that starts in a project's domain, under -O as Scipion is often run."""
        done = self.run(sys.executable, "-O", "-c", PREAMBLE + code, *arguments, timeout=timeout, **variables)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return done.stdout


PREAMBLE = f"""
import os, sys, time
import pyworkflow as pw
pw.Config.setDomain("pwem"); pw.Config.getDomain().getPlugins()
from pyworkflow.project import Manager
from cryopares_plugin.protocols import *

def open_project(name):
    project = Manager().loadProject(name)
    os.chdir(project.path)
    return project

def link(pointer, protocol, output):
    pointer.set(protocol)
    pointer.setExtended(output)

def new_training(project, n_epochs):
    particles = next(run for run in project.getRuns() if run.getClassName() == "ProtImportParticles")
    training = project.newProtocol(ProtCryoparesTrain, n_epochs=n_epochs, **{QUICK})
    link(training.inputParticles, particles, "outputParticles")
    return training

def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("waited in vain")
        time.sleep(0.2)

def status(run):
    run.getProject()._updateProtocol(run)
    return run.getStatus()

def wait_until_ended(run):
    wait_for(lambda: status(run) in ("finished", "failed", "aborted"))
    print("ended:", run.getStatus(), getattr(run, "outputModel", None), run.getErrorMessage())

def wait_for_checkpoint(run):
    wait_for(lambda: os.path.isfile(os.path.join(run.getRunDir(), "half1", "checkpoints", "last.ckpt")))

def wait_for_model(run):
    wait_for(lambda: status(run) and hasattr(run, "outputModel"))

def epochs(run):
    from cryopares_core.plots.records import read_run
    return [[line["epoch"] for line in half.epochs] for half in read_run(run.getRunDir()).halves.values()]
"""

IMPORT = """
from pwem.protocols import ProtImportParticles
name, star = sys.argv[1:]
project = Manager().createProject(name)
os.chdir(project.path)
imported = project.newProtocol(ProtImportParticles, importFrom=ProtImportParticles.IMPORT_FROM_RELION, starFile=star,
                               samplingRate=10.0, magnification=50000, objLabel="particles")
project.launchProtocol(imported, wait=True)
if not imported.isFinished():
    sys.exit(imported.getErrorMessage())
"""


def install(folder: Path) -> Installation:
    """Configure Scipion, and simulate particles for all projects."""
    for name in ("home", "data"):
        (folder / name).mkdir(parents=True)
    installation = Installation(folder)
    done = installation.run(sys.executable, "-m", "scipion", "config", "--unattended")
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    options = f"--phantom --n_particles {N_PARTICLES} --image_size_px 32 --sampling_rate 10 --snr 10 --out_dir simulated"
    done = installation.run(sys.executable, "-m", "cryopares_simulate", *options.split())
    if done.returncode:
        raise RuntimeError(done.stderr)
    return installation


def project_with_particles(installation: Installation, name: str) -> Path:
    """The folder of a new project whose first run is an import of the simulated particles."""
    installation.python(IMPORT, name, str(installation.folder / "simulated" / "particles.star"))
    return installation.folder / "data" / "projects" / name


def require(*programs: str) -> None:
    """Skip where programs of the system are missing; `make test` installs them where it may."""
    path = os.pathsep.join([os.environ["PATH"], *SYSTEM_PROGRAMS])
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)} (tools/install_test_tools.sh installs them on Debian and Ubuntu)")
