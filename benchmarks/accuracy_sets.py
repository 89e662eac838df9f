"""The sets of the accuracy benchmark: what is trained on and what is tested, each made from a seed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import starfile
from two_states import other_state

from cryopares_core.files import write_text
from cryopares_core.volumes.maps import read_map, write_map

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]
TRUTH, BLIND = "particles.star", "blind.star"


@dataclass(frozen=True)
class Particles:
    """Simulated particles of one map. `box` is set where the map is resampled (then our own simulator makes the images)."""

    name: str
    map_name: str
    count: int
    snr: float
    seed: int
    colour: float = 0.0
    preferred: float = 0.0
    junk: float = 0.0
    box: int | None = None


@dataclass(frozen=True)
class Study:
    """One row of the benchmark: a network trained on some particles, and others whose poses are to be found."""

    name: str
    training: Particles
    test: Particles
    symmetry: str = "C1"
    shifts_known: bool = True
    noisy_labels: bool = False
    epochs: int = 10
    resolution_angs: float = 12.0
    diameter_angs: float = 230.0

    @property
    def network(self) -> str:
        """Name of the trained network; studies that train on the same labels share it."""
        return self.training.name + ("_labelnoise" if self.noisy_labels else "")


def _state(letter: str, snr: float, seed: int, count: int = 1000, tag: str = "", **more: float) -> Particles:
    return Particles(f"state_{letter}_snr{snr:g}{tag}", f"state_{letter}.mrc", count, snr, seed, **more)  # type: ignore[arg-type]


STATE_A, STATE_B = _state("a", 0.1, 101, 4000), _state("b", 0.1, 102)
GROEL = Particles("groel_train", "GroEL_1mnf_D7_64_4A.mrc", 3000, 0.1, 5, colour=2.0)
FERRITIN = Particles("apoferritin_train", "apoferritin_O_48_3.5A.mrc", 3000, 0.1, 21)
FERRITIN_TEST = replace(FERRITIN, name="apoferritin_test", count=500, seed=22)
RIBOSOME = Particles("rib70s_train", "rib70s.mrc", 10000, 0.1, 1)
BIG = _state("a", 0.02, 31, 3000, "_200px", box=200)
TWO_STATES = [
    Study("two_states_snr0.1", STATE_A, STATE_B),
    Study("two_states_snr0.03", STATE_A, _state("b", 0.03, 103)),
    Study("two_states_snr0.01", STATE_A, _state("b", 0.01, 104)),
    Study("two_states_snr0.1_shifts_unknown", STATE_A, STATE_B, shifts_known=False),
]
STUDIES = [
    *TWO_STATES,
    Study("groel_d7", GROEL, replace(GROEL, name="groel_test", count=500, seed=6), "D7", diameter_angs=200.0),
    Study("apoferritin_o", FERRITIN, FERRITIN_TEST, "O", epochs=6, diameter_angs=150.0),
    Study("junk", _state("a", 0.1, 41, 4000, "_junk", junk=0.1), _state("b", 0.1, 42, 500, "_junk", junk=0.1), epochs=5),
    Study("label_noise", STATE_A, STATE_B, noisy_labels=True, epochs=5),
    Study(
        "preferred_views",
        _state("a", 0.1, 51, 4000, "_pref", preferred=0.6),
        _state("b", 0.1, 52, 500, "_pref", preferred=0.6),
        epochs=5,
    ),
    Study("rib70s_10k", RIBOSOME, replace(RIBOSOME, name="rib70s_test", count=500, seed=2), epochs=3, diameter_angs=280.0),
    Study("box_200px", BIG, _state("b", 0.02, 32, 500, "_200px", box=200), epochs=6, resolution_angs=10.0),
]


class SetMaker:
    """Makes sets in `OUT/sets` once.

    Parameters
    ----------
    make_sets : path of `make_sets.py`, a simulator that shares no code with this project
    maps_dir : folder with the maps
    """

    def __init__(self, out_dir: Path, make_sets: Path, maps_dir: Path):
        self.out_dir, self.make_sets, self.maps_dir = out_dir / "sets", make_sets, maps_dir

    @cached_property
    def simulator(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("make_sets", self.make_sets)
        if spec is None or spec.loader is None:
            sys.exit(f"{self.make_sets}: not a Python file; give make_sets.py with --make_sets")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def map_path(self, name: str) -> Path:
        """The map of a set as a file; states and the ribosome are made from the maps at hand."""
        path = self.out_dir / "maps" / name
        if path.exists():
            return path
        makers: dict[str, Callable[[], tuple[np.ndarray, float]]] = {
            "state_a.mrc": lambda: read_map(self.maps_dir / "30S_1xnr_C1_64_4A.mrc"),
            "state_b.mrc": lambda: self._other_state(),
            "rib70s.mrc": lambda: (self.simulator.ribosome(64), 5.0),
        }
        volume, pixel_angs = makers.get(name, lambda: read_map(self.maps_dir / name))()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_map(path, np.asarray(volume, dtype=np.float32), pixel_angs)
        return path

    def _other_state(self) -> tuple[np.ndarray, float]:
        volume, pixel_angs = read_map(self.map_path("state_a.mrc"))
        return other_state(np.asarray(volume)), pixel_angs

    def __call__(self, particles: Particles) -> Path:
        """The folder of a set, with `particles.star` and `set.json`, which is written last."""
        folder = self.out_dir / particles.name
        record = folder / "set.json"
        made = json.dumps(asdict(particles), indent=1)
        if record.exists():
            if record.read_text() != made:
                sys.exit(f"{folder}: made with other settings; remove the folder")
            return folder
        path = self.map_path(particles.map_name)
        if particles.box:
            self._own(particles, path, folder)
        else:
            volume, pixel_angs = read_map(path)
            more = {"colour": particles.colour, "pref": particles.preferred, "junk": particles.junk}
            where, double = str(folder), np.asarray(volume, dtype=float)
            self.simulator.make(where, double, pixel_angs, particles.count, particles.snr, seed=particles.seed, **more)
        write_text(record, made)
        return folder

    @staticmethod
    def _own(particles: Particles, map_path: Path, folder: Path) -> None:
        words = ["--map_fname", str(map_path), "--n_particles", str(particles.count), "--snr", str(particles.snr)]
        words += ["--seed", str(particles.seed), "--image_size_px", str(particles.box), "--out_dir", str(folder), "--overwrite"]
        subprocess.run([sys.executable, "-m", "cryopares_simulate", *words], check=True)


def write_blind(folder: Path, path: Path, shifts_known: bool, count: int | None = None) -> None:
    """The particles of a set without their angles, and without origins where shifts are unknown; the first `count` of them."""
    blocks = starfile.read(folder / TRUTH, always_dict=True)
    rows = blocks["particles"].drop(columns=ANGLES if shifts_known else ANGLES + ORIGINS)
    blocks["particles"] = rows if count is None else rows.iloc[:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    starfile.write(blocks, path, overwrite=True)


def junk_images(folder: Path) -> set[str]:
    """Names of the images without a particle."""
    path = folder / "truth_flags.csv"
    if not path.exists():
        return set()
    flags = pd.read_csv(path)
    return set(flags.loc[flags["junk"] == 1, "image"])
