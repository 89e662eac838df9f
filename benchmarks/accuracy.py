"""Accuracy on record: how right the poses of each method are, what they cost, and what map they make.

    python benchmarks/accuracy.py --out_dir OUT --make_sets make_sets.py --maps_dir MAPS [--studies two_states_snr0.1 ...]
        [--methods network both relion ...] [--prefix "nice -n 19"]

Every study trains a network on simulated particles of one set and finds the poses of another. Each method is a real command in a
process of its own, on one thread, on particles without angles. It runs twice, on all particles and on a quarter of them: the
difference is the time of an image without start-up. Errors stand with their standard error by bootstrap over particles; the
map's resolution is where its correlation with the true map falls below 0.5. Results are kept: what is done is not done again.
`OUT/accuracy.jsonl` and `OUT/accuracy.md` have all that has been measured, `--figures DIR` plots it.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_methods import MAP_ALONE, METHODS, PEER, Input, Runner, infer, move_to_grid, reconstruct, train
from accuracy_plots import plot
from accuracy_relion import auto_refine, missing_programs
from accuracy_scores import errors_degs, markdown, score
from accuracy_sets import BLIND, STUDIES, TRUTH, SetMaker, Study, junk_images, write_blind
from second_state import resolution_against

from cryopares_core.files import write_text

RELION = "relion"
MIN_FEW = 50  # particles of the shorter run
ALL_METHODS = [*METHODS, RELION]


class Bench:
    """The folders of one benchmark run."""

    def __init__(self, out_dir: Path, sets: SetMaker, run: Runner):
        self.out_dir, self.sets, self.run = out_dir, sets, run

    def network(self, study: Study, point_label: bool) -> Path:
        name = study.network + ("_point_label" if point_label else "")
        return train(study, self.sets(study.training), self.out_dir / "networks" / name, self.run, point_label)

    def reference(self, study: Study) -> Path:
        """Maps of the training particles at the poses that the network is trained on."""
        particles = self.sets(study.training)
        star = particles / ("particles_labelnoise.star" if study.noisy_labels else TRUTH)
        return reconstruct(study, star, particles, self.out_dir / "references" / study.network, self.run)

    def measure(self, study: Study, method: str) -> None:
        """Find the poses of a study by a method, once, and keep `record.json` and `errors.npy`."""
        out = self.out_dir / "results" / study.name / method.replace(" ", "_")
        record = out / "record.json"
        if record.exists():
            return
        particles = self.sets(study.test)
        blind = out / BLIND
        write_blind(particles, blind, study.shifts_known)
        find = self._relion if method == RELION else self._infer
        found, costs = find(study, method, blind, particles, out)
        junk = junk_images(particles)
        errors, aligned = (errors_degs(found, particles / TRUTH, study.symmetry, junk, aligned=turn) for turn in (False, True))
        np.save(out / "errors.npy", errors)
        made = reconstruct(study, found, particles, out / "map", self.run)
        resolution = resolution_against(made / "map.mrc", self._true_map(study))
        scores = {"scores": score(errors), "aligned_scores": score(aligned)}
        measured = {"study": study.name, "method": method, "n": len(errors), **scores, **costs}
        write_text(record, json.dumps(measured | {"resolution_angs": round(resolution, 2)}))
        print(f"{study.name}, {method}: {measured['scores']}", flush=True)

    def _true_map(self, study: Study) -> Path:
        return self.sets(study.test) / "reference.mrc"

    def _infer(self, study: Study, method: str, blind: Path, particles: Path, out: Path) -> tuple[Path, dict[str, float]]:
        network = None if method == MAP_ALONE else self.network(study, method == PEER)
        reference = self.reference(study)
        count = study.test.count
        few = max(MIN_FEW, count // 4)
        write_blind(particles, out / "few.star", study.shifts_known, few)
        seconds = []
        for star, folder in ((out / "few.star", out / "few"), (blind, out / "all")):
            given = Input(star, particles, network, reference)
            seconds.append(_once(folder, partial(infer, study, method, given, folder, self.run)))
        found = out / "all" / "particles.star"
        if method == PEER:
            move_to_grid(found, out / "on_grid.star")
            found = out / "on_grid.star"
        marginal = (seconds[1] - seconds[0]) / (count - few)
        return found, {"ms": 1e3 * seconds[1] / count, "marginal_ms": 1e3 * marginal}

    def _relion(self, study: Study, method: str, blind: Path, particles: Path, out: Path) -> tuple[Path, dict[str, float]]:
        found, seconds = auto_refine(study, blind, particles, self.reference(study), out / "run", self.run)
        return found, {"ms": 1e3 * seconds / study.test.count}


def _once(folder: Path, work: Callable[[], float]) -> float:
    """The seconds that some work took, kept beside its folder."""
    kept = folder.with_name(f"{folder.name}.seconds")
    if not kept.exists():
        write_text(kept, f"{work():.3f}")
    return float(kept.read_text())


def collect(out_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """All records by study, in the order of `STUDIES` and `ALL_METHODS`; also written as JSON lines and Markdown."""
    records = [json.loads(path.read_text()) for path in (out_dir / "results").glob("*/*/record.json")]
    names = [study.name for study in STUDIES]
    records.sort(key=lambda record: (names.index(record["study"]), ALL_METHODS.index(record["method"])))
    write_text(out_dir / "accuracy.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    studies = {name: [record for record in records if record["study"] == name] for name in names}
    studies = {name: found for name, found in studies.items() if found}
    write_text(out_dir / "accuracy.md", "\n".join(markdown(name, found) for name, found in studies.items()))
    return studies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument(
        "--make_sets", type=Path, required=True, help="make_sets.py, a simulator that shares no code with this project"
    )
    parser.add_argument("--maps_dir", type=Path, required=True)
    parser.add_argument(
        "--studies", nargs="+", choices=[study.name for study in STUDIES], default=[study.name for study in STUDIES]
    )
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=ALL_METHODS)
    parser.add_argument("--prefix", default="", help="options before each command, such as 'nice -n 19'")
    parser.add_argument("--figures", type=Path, help="folder for the plots")
    arguments = parser.parse_args()
    out_dir = arguments.out_dir.absolute()
    missing = missing_programs() if RELION in arguments.methods else []
    if missing:
        sys.exit(f"{', '.join(missing)} not found: install RELION, or leave relion out of --methods")
    bench = Bench(out_dir, SetMaker(out_dir, arguments.make_sets, arguments.maps_dir), Runner(tuple(shlex.split(arguments.prefix))))
    for study in STUDIES:
        for method in arguments.methods if study.name in arguments.studies else ():
            bench.measure(study, method)
    studies = collect(out_dir)
    print((out_dir / "accuracy.md").read_text())
    if arguments.figures:
        plot(out_dir, studies, arguments.figures)


if __name__ == "__main__":
    main()
