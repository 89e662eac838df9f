"""A Slurm cluster of one node on the loopback interface, of our own user, in a temporary folder."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLUSTER_PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")
LONGEST_START_S = LONGEST_STOP_S = 30.0
# The GPU is a file that is always there: Slurm hands it out like a real one.
CONF = """
ClusterName=cryopares
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def documented_script(folder: Path, name: str, words: Sequence[str]) -> Path:
    """The script of docs/cluster.md that runs `cryopares_NAME`, with other arguments, and without GPUs on a small node."""
    page = CLUSTER_PAGE.read_text(encoding="utf-8")
    (script,) = (text for text in re.findall(r"```sh\n(#!/bin/sh.*?)```", page, re.DOTALL) if f"srun cryopares_{name} " in text)
    lines = [line for line in script.splitlines() if "--gres" not in line and "--mem" not in line and "--cpus" not in line]
    command = " ".join([sys.executable, "-m", f"cryopares_{name}", *words])
    script = re.sub(r"srun cryopares_.*?(?=\n[^ ]|\n\Z)", f"srun {command}", "\n".join(lines) + "\n", flags=re.DOTALL)
    path = folder / "job.sh"
    path.write_text(script.replace(f"{name}-%j.log", f"{folder}/{name}-%j.log"), encoding="utf-8")
    return path


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """The environment variables with which Slurm's commands reach the cluster. Nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    environment = {**os.environ, **variables}
    try:
        _write_files(folder)
        socket_path = folder / "munge.socket"
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
        _start(folder, environment, "munged", "--foreground", "--force", f"--socket={socket_path}", *files)
        _wait_for(socket_path.exists, folder)
        _start(folder, environment, "slurmctld", "-D")
        _start(folder, environment, "slurmd", "-D")
        _wait_for(lambda: "idle" in _answer(environment, "sinfo", "-h", "-o", "%t"), folder)
        yield variables
    finally:
        _stop(folder, environment)
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, user=getpass.getuser(), **ports))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not looked up where it may not be
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _start(folder: Path, environment: dict[str, str], program: str, *arguments: str) -> None:
    """Start a daemon that ends with us, whatever happens."""
    path = os.pathsep.join([environment["PATH"], "/usr/sbin", "/sbin"])
    command = ["setpriv", "--pdeathsig", "KILL", shutil.which(program, path=path) or program, *arguments]
    with (folder / f"{program}.out").open("w") as out:
        subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _answer(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm says, nothing where it cannot be run."""
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _wait_for(condition: Callable[[], object], folder: Path) -> None:
    end = time.monotonic() + LONGEST_START_S
    while not condition():
        if time.monotonic() > end:
            said = [f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.out"))]
            raise RuntimeError("Slurm does not start.\n" + "\n".join(said))
        time.sleep(0.1)


def _stop(folder: Path, environment: dict[str, str]) -> None:
    """End jobs and daemons; by force what does not go by itself."""
    import psutil  # comes with Scipion

    _answer(environment, "scancel", f"--user={getpass.getuser()}")
    end = time.monotonic() + LONGEST_STOP_S
    while _answer(environment, "squeue", "-h") and time.monotonic() < end:
        time.sleep(0.1)
    of_jobs = [one.pid for one in psutil.net_connections("unix") if one.laddr.startswith(str(folder))]
    for process in psutil.process_iter():
        try:
            if process.pid in of_jobs or process.environ().get("SLURM_CONF") == environment["SLURM_CONF"]:
                process.kill()
                process.wait(5)
        except psutil.Error:
            continue
