"""Small runs for tests, and processes of their own for them, started in a moment, that tests can kill."""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
from settings import SMALL

from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

# A server that has loaded everything once: what it forks is a process as any other, without ten seconds of imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["cryopares_core.commands.train", "cryopares_core.training.run"])


def folder_of_particles(folder: Path) -> Path:
    """300 noisy simulated particles of 32 px, so that training begins with a curriculum."""
    simulate_particles(phantom_map(32, 10.0), 10.0, folder, SimulationSettings(n_particles=300, snr=0.3, seed=3))
    return folder


def run_words(particles: Path):
    """A function that gives the words of a run on these particles, for a folder of its own."""
    fixed = ["--symmetry", "C1", "--particles_star_fname", str(particles / "particles.star"), "--particles_dir", str(particles)]
    fixed += ["--batch_size", "16", "--n_threads", "1"]

    def words(out_dir: Path, *more: str, config=()) -> list[str]:
        return [*fixed, "--train_save_dir", str(out_dir), *more, "--config", *SMALL, *config]

    return words


def metrics(run_dir: Path, half: str) -> list[dict]:
    """The lines of a half set's `metrics.jsonl`, without what the clock says."""
    lines = [json.loads(line) for line in (run_dir / half / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def _train(words: list[str], log: Path, limits: dict[int, int]) -> None:
    import resource

    from cryopares_core.commands.train import main

    os.setpgid(0, 0)
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["cryopares_train", *words]
    torch.set_num_threads(1)
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


class TrainingProcess:
    """`cryopares_train` with these words, begun at once; what it tells is in `log`."""

    def __init__(self, words, log: Path, limits=None):
        self.log = Path(log)
        self.process = SERVER.Process(target=_train, args=(words, self.log, limits or {}))
        self.process.start()

    def ends(self, seconds: float = 120) -> int:
        """Wait for its end, and return its exit code (-9 of one that was killed)."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.send(9)
            raise TimeoutError(f"The training did not end within {seconds} s:\n{self.told()}")
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send a signal to it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def when(self, happened, seconds: float = 60) -> bool:
        """Wait without sleeping until something has happened; False where it ended before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if happened():
                return True
            if not self.process.is_alive():
                return False
        raise TimeoutError(self.told())

    def told(self) -> str:
        """What it has told so far."""
        return self.log.read_text() if self.log.exists() else ""
