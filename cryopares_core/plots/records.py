"""Reading the folder of a training run: finished, still going on, or killed in the middle of a line."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from cryopares_core.plots.readers import Columns, Epoch, read_columns, read_json, read_lines, read_metrics

HALF_SETS = ("half1", "half2", "allParticles", "simulated")
VALIDATION_COLUMNS = (
    "rot_degs",
    "tilt_degs",
    "psi_degs",
    "predicted_rot_degs",
    "predicted_tilt_degs",
    "predicted_psi_degs",
    "error_degs",
    "confidence",
    "defocus_angs",
)
N_LATER_COLUMNS = 2  # the last ones, which files of earlier versions lack
VIEW_COLUMNS = ("rot_degs", "tilt_degs", "n_train", "n_val", "mean_error_degs", "median_error_degs")
EPOCHS_FOR_PACE = 5


@dataclass(frozen=True)
class HalfRecord:
    """What one half set has left so far.

    Attributes
    ----------
    epochs, simulation : lines of `metrics.jsonl`, oldest first, of the training and of the pretraining on simulated views
    validation : arrays `(n_val,)` by the names of VALIDATION_COLUMNS, for the best epoch; None before the first validation. A
        defocus that is not known is nan
    views : arrays `(pixels,)` by the names of VIEW_COLUMNS, HEALPix pixels in ring order; errors are nan where there are none
    n_train, n_val : numbers of particles; None while unknown
    updated : when the last epoch ended, as `time.time()` gives it
    stopped_early : validation had got no better for as many epochs as were asked for
    """

    name: str
    folder: Path
    epochs: List[Epoch]
    simulation: List[Epoch]
    validation: Optional[Columns]
    views: Optional[Columns]
    n_train: Optional[int]
    n_val: Optional[int]
    updated: float
    stopped_early: bool = False

    @property
    def best(self) -> Optional[Epoch]:
        """The epoch of the lowest validation loss, whose model is kept."""
        validated = [line for line in self.epochs if "val_loss" in line]
        return min(validated, key=lambda line: line["val_loss"]) if validated else None

    @property
    def seconds(self) -> float:
        """Time spent on all epochs, the simulated ones included."""
        return sum(epoch_seconds(self.simulation)) + sum(epoch_seconds(self.epochs))


@dataclass(frozen=True)
class RunRecord:
    """A run folder `version_N`. `settings` is its `run.json` (empty where that cannot be read); `halves` those begun."""

    folder: Path
    settings: Dict[str, Any]
    halves: Dict[str, HalfRecord]
    warnings: List[str]

    @property
    def arguments(self) -> Dict[str, Any]:
        """The options of the command line, defaults included."""
        return self.settings.get("arguments") or {}

    @property
    def n_epochs(self) -> Optional[int]:
        return self.arguments.get("n_epochs")

    @property
    def n_epochs_simulation(self) -> int:
        return self.settings.get("n_epochs_simulation") or 0

    @property
    def symmetry(self) -> str:
        return self.settings.get("symmetry") or "C1"

    @property
    def sampling_rate_angs(self) -> Optional[float]:
        """Pixel size of the network's pictures."""
        return self.settings.get("sampling_rate_angs")

    @property
    def image_size_px(self) -> Optional[int]:
        """Side of the network's pictures."""
        return self.settings.get("image_size_px")

    @property
    def n_particles(self) -> Optional[int]:
        return self.settings.get("n_particles")

    @property
    def started(self) -> str:
        """Date and time in ISO form, or an empty text."""
        return self.settings.get("started") or ""

    @property
    def expected(self) -> List[str]:
        """The names of all half sets that the run is to train."""
        if self.settings.get("half_sets"):
            return list(self.settings["half_sets"])
        if list(self.halves) == ["simulated"]:
            return ["simulated"]
        return ["half1", "half2"] if self.arguments.get("split_halfs", True) else ["allParticles"]

    @property
    def finished(self) -> bool:
        """Whether every half set has done all its epochs, or was stopped early."""
        return self.n_epochs is not None and all(
            name in self.halves and (self.halves[name].stopped_early or len(self.halves[name].epochs) >= self.n_epochs)
            for name in self.expected
        )


def read_run(version_dir: Union[str, Path]) -> RunRecord:
    """All that can be read of a run folder; files that are missing or damaged count as not there yet."""
    folder = Path(version_dir)
    settings = read_json(folder / "run.json")
    halves = {name: read_half_set(folder / name) for name in HALF_SETS if (folder / name).is_dir()}
    return RunRecord(folder, settings, halves, read_lines(folder / "warnings.txt"))


def read_half_set(folder: Path) -> HalfRecord:
    """The record of one half set's folder, such as `version_0/half1`."""
    views = read_columns(folder / "views.csv", VIEW_COLUMNS)
    training = read_json(folder / "model.json").get("training", {})
    counts = [training.get(name, None if views is None else int(np.nansum(views[name]))) for name in ("n_train", "n_val")]
    files = [path for path in (folder / "metrics.jsonl", folder / "simulation" / "metrics.jsonl") if path.exists()]
    return HalfRecord(
        name=folder.name,
        folder=folder,
        epochs=read_metrics(folder / "metrics.jsonl"),
        simulation=read_metrics(folder / "simulation" / "metrics.jsonl"),
        validation=_read_validation(folder / "validation.csv"),
        views=views,
        n_train=counts[0],
        n_val=counts[1],
        updated=max([path.stat().st_mtime for path in files], default=0.0),
        stopped_early=bool(training.get("stopped_early")),
    )


def _read_validation(path: Path) -> Optional[Columns]:
    found = read_columns(path, VALIDATION_COLUMNS)
    return read_columns(path, VALIDATION_COLUMNS[:-N_LATER_COLUMNS]) if found is None else found


def epoch_seconds(epochs: List[Epoch]) -> List[float]:
    """The time that each epoch took; the clock in `metrics.jsonl` starts anew when a run goes on."""
    clock = [float(line.get("seconds", 0.0)) for line in epochs]
    return [now - before if now >= before else now for before, now in zip([0.0, *clock], clock)]


def seconds_left(record: RunRecord, now: Optional[float] = None) -> Optional[float]:
    """Estimated time until all half sets are done: 0 when they are, None before the first epoch of the run has ended.

    Parameters
    ----------
    now : as `time.time()` gives it, which is the default
    """
    if record.n_epochs is None or not any(half.epochs or half.simulation for half in record.halves.values()):
        return None
    halves = [record.halves.get(name) for name in record.expected]
    total = sum(_left(record, half) for half in halves)
    running = max(record.halves.values(), key=lambda half: half.updated)
    since = (time.time() if now is None else now) - running.updated
    # A run that was killed long ago doesn't come nearer to its end: no more than one epoch counts as under way.
    return max(0.0, total - max(0.0, min(since, _pace(running.epochs or running.simulation))))


def _left(record: RunRecord, half: Optional[HalfRecord]) -> float:
    """Seconds that one half set still needs, with the pace of others where it has none of its own."""
    known = [*([half] if half else []), *record.halves.values()]
    pace = next((_pace(other.epochs) for other in known if other.epochs), 0.0)
    pace_simulated = next((_pace(other.simulation) for other in known if other.simulation), pace)
    if half and half.stopped_early:
        return 0.0
    done, simulated = (len(half.epochs), len(half.simulation)) if half else (0, 0)
    to_simulate = 0 if done else max(0, record.n_epochs_simulation - simulated)
    return max(0, (record.n_epochs or 0) - done) * (pace or pace_simulated) + to_simulate * pace_simulated


def _pace(epochs: List[Epoch]) -> float:
    """Seconds an epoch, over the last few."""
    recent = epoch_seconds(epochs)[-EPOCHS_FOR_PACE:]
    return sum(recent) / len(recent) if recent else 0.0


def best_error(record: RunRecord) -> Optional[Tuple[float, float]]:
    """Mean and median validation error in degrees at the best epochs, averaged over the half sets; None before any."""
    best = [half.best for half in record.halves.values()]
    errors = [(line["val_geo_degs"], line["val_median_geo_degs"]) for line in best if line and "val_geo_degs" in line]
    return (sum(mean for mean, _ in errors) / len(errors), sum(median for _, median in errors) / len(errors)) if errors else None


def share_under(half: HalfRecord, limit_degs: float) -> Optional[float]:
    """The share of the validation particles with an error under a limit, 0 to 1."""
    return None if half.validation is None else float((half.validation["error_degs"] < limit_degs).mean())


def column(half: HalfRecord, name: str) -> Optional[np.ndarray]:
    """One column of the particles held out, `(n_val,)`; None where it is missing or not known of all of them."""
    values = (half.validation or {}).get(name)
    return None if values is None or not np.isfinite(values).all() else values


def summary_lines(record: RunRecord, now: Optional[float] = None) -> List[str]:
    """One line a half set: `half1: epoch 5 of 10, validation error mean 4.2°, median 3.1°; about 12 min left`."""
    lines = [half_line(half, record) for half in record.halves.values()]
    left = seconds_left(record, now)
    if lines and left and not record.finished:
        lines[-1] += f"; about {duration_text(left)} left"
    return lines


def half_line(half: HalfRecord, record: RunRecord) -> str:
    """How far one half set is, and the error of its best epoch."""
    if not half.epochs and half.simulation:
        return f"{half.name}: simulated pretraining, epoch {len(half.simulation)} of {record.n_epochs_simulation or '?'}"
    best, done = half.best, len(half.epochs)
    text = f"{half.name}: epoch {done} of {record.n_epochs or '?'}"
    if best and "val_geo_degs" in best:
        text += f", validation error mean {best['val_geo_degs']:.1f}°, median {best['val_median_geo_degs']:.1f}°"
        text += f" (best epoch {best['epoch']})" if best["epoch"] != half.epochs[-1]["epoch"] else ""
    return text


def duration_text(seconds: float) -> str:
    """`40 s`, `12 min` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
