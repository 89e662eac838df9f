"""Scipion's queue on a real Slurm, set up as docs/cluster.md tells users."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import require
from installation import ROOT, Installation, project_with_particles
from slurm import PROGRAMS, cluster

pytestmark = [pytest.mark.timeout(200), pytest.mark.xdist_group("slurm")]
Run = Callable[..., str]

SUBMIT = """
import json
name, fields, n_epochs = sys.argv[1:]
project = open_project("queued")
run = new_training(project, int(n_epochs))
run.setObjLabel(name)
run.useGpu.set(json.loads(fields)["GPUS"] != "0")
run.numberOfThreads.set(2)
run._useQueue.set(True)
run.setQueueParams(["main", json.loads(fields)])
project.launchProtocol(run)
"""


def fields(gpus: int, for_jobs: str) -> str:
    return f'{{"TIME": "00:10:00", "MEMORY": "3", "GPUS": "{gpus}", "QUEUE_FOR_JOBS": "{for_jobs}"}}'


@pytest.fixture(scope="module")
def queue(scipion: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs code in Scipion whose `hosts.conf` is that of the documentation."""
    require(*PROGRAMS)
    (hosts,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path_factory.mktemp("slurm") / "hosts.conf"
    path.write_text(hosts, encoding="utf-8")
    project_with_particles(scipion, "queued")
    with cluster() as variables:

        def run(code: str, *arguments: str) -> str:
            return scipion.python(code, *arguments, SCIPION_HOSTS=str(path), **variables)

        run.variables = variables  # type: ignore[attr-defined]
        yield run


def test_a_whole_protocol_is_cancelled_and_goes_on(queue: Run) -> None:
    said = queue(
        SUBMIT
        + """
import subprocess
job = str(run.getJobIds()[0])
print(subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout)
wait_for_checkpoint(run)
project.stopProtocol(run)
wait_for(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout, 20)
print("stopped:", run.getStatus(), max(epochs(run)[0]))
run = project.getProtocol(run.getObjId())
print("kept:", run.outputModel)
run.runMode.set(0)
project.launchProtocol(run)
wait_until_ended(run)
print(epochs(run), "Going on" in open(run.getStdoutLog()).read())
""",
        "whole",
        fields(1, "N"),
        "12",
    )
    print(said)
    for text in ("TresPerNode=gres:gpu:1", "mem=3G", "cpu=2", "TimeLimit=00:10:00", "Partition=main", "stopped: aborted"):
        assert text in said
    assert "kept: CryoparesModel" in said and "ended: finished CryoparesModel" in said
    assert f"{[list(range(1, 13))] * 2} True" in said
