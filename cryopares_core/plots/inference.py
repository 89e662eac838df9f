"""The report of an inference: how sure its poses are, from which directions, and what that rests on."""

import html
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import numpy as np

from cryopares_core.files import write_text
from cryopares_core.plots.calibration import Bins
from cryopares_core.plots.consensus import NOTE as CONSENSUS_NOTE
from cryopares_core.plots.consensus import consensus_text, draw_consensus
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.plots.figures import BLUE, COLOURS, GREY, ORANGE, new_figure, say_nothing_yet, styled
from cryopares_core.plots.fsc import draw_fsc, read_fsc
from cryopares_core.plots.page import figure_html, page_html, table_html
from cryopares_core.plots.readers import Columns, read_columns, read_json
from cryopares_core.plots.records import duration_text
from cryopares_core.plots.sphere import draw_map

FILE, VIEWS, REPORT, RECONSTRUCTION = "infer.json", "views.csv", "report.html", "reconstruction"
VIEW_COLUMNS = ("rot_degs", "tilt_degs", "n", "mean_confidence")


@dataclass(frozen=True)
class InferenceRecord:
    """What an inference has left in its folder.

    Attributes
    ----------
    summary : the content of `infer.json`; empty before the end
    views : arrays `(pixels,)` by the names of VIEW_COLUMNS; None before the end
    """

    folder: Path
    summary: Dict[str, Any]
    views: Optional[Columns]

    @property
    def threshold(self) -> Optional[float]:
        """The least confidence of particles that were kept; None where all were."""
        return self.summary.get("threshold")


def read_inference(results_dir: Union[str, Path]) -> InferenceRecord:
    """The record of a results folder; what is missing or damaged counts as not there yet."""
    folder = Path(results_dir)
    return InferenceRecord(folder, read_json(folder / FILE), read_columns(folder / VIEWS, VIEW_COLUMNS))


def write_inference_report(results_dir: Union[str, Path]) -> Path:
    """Write `report.html` from the other files of a finished inference, all or nothing; returns its path."""
    record = read_inference(results_dir)
    path = record.folder / REPORT
    write_text(path, _report(record))
    return path


def _report(record: InferenceRecord) -> str:
    sections = [
        ("Confidence", _shares(record) + _drawn(record, draw_confidences, 11.0, 3.8, CONFIDENCE_NOTE)),
        ("Agreement of the half models", _consensus(record)),
        ("View directions", _drawn(record, draw_views, 12.5, 4.0, VIEWS_NOTE)),
        ("Calibration", _calibration(record)),
        ("Map", _map(record)),
        ("Time", _time(record)),
        ("Warnings", "".join(f"<p>{html.escape(text)}</p>" for text in record.summary.get("warnings", []))),
        ("Command", f"<pre>{html.escape(shlex.join(record.summary['command']))}</pre>"),
    ]
    return page_html("CryoPARES inference", str(record.folder.resolve()), _facts(record), sections)


def _drawn(record: InferenceRecord, draw: Callable[..., None], width: float, height: float, note: str) -> str:
    figure = new_figure(width, height)
    draw(figure, record)
    return figure_html(figure, note)


def _consensus(record: InferenceRecord) -> str:
    """How far the half models disagree, where that was asked for."""
    found = record.summary.get("consensus")
    if not found:
        return ""
    figure = new_figure(7.0, 3.8)
    draw_consensus(figure, found)
    return f"<p>{html.escape(consensus_text(found))}</p>" + figure_html(figure, CONSENSUS_NOTE)


def _calibration(record: InferenceRecord) -> str:
    if not record.summary.get("calibration"):
        return NO_CALIBRATION
    return _drawn(record, draw_calibrations, 5.4, 4.2, CALIBRATION_NOTE)


CONFIDENCE_NOTE = (
    f"Confidence is the probability that a pose is within {GOOD_DEGS:.0f}° of the truth. On the right: for each least confidence, "
    "how many particles have it, and how many of their poses are right if confidence means what it says."
)
VIEWS_NOTE = "Of the particles kept. Views that the training set did not have cannot be found."
CALIBRATION_NOTE = (
    "What calibration was learned from: particles held out in training, in groups of equal number, each corrected by what was "
    "learned from the others. On the diagonal, confidence means what it says. Hollow: the network's own confidence. Where "
    f"poses were refined afterwards, those count that refinement can bring to within {GOOD_DEGS:.0f}°."
)
MAP_NOTE = "Fourier shell correlation of the maps of the two half sets, made of the particles kept."
REFERENCE_NOTE = (
    "<p>Poses were compared with a reference map. Images of noise, or of another molecule, aligned to the same reference give half "
    "maps that look like it and correlate with each other (reference bias). Believe detail that the reference does not show, "
    "and half maps whose references were independent.</p>"
)
EVIDENCE_WORDS = {"both": "network and map", "network": "network alone", "map": "map alone (exhaustive search)"}
NO_CALIBRATION = "<p>The models have no calibration: confidence is the network's own, whose order counts more than its value.</p>"


def _facts(record: InferenceRecord) -> List[Any]:
    summary = record.summary
    threshold = "none" if record.threshold is None else f"{record.threshold:g}"
    return [
        ("Particles", f"{summary['particles']:,}"),
        ("Kept", f"{summary['kept']:,}"),
        ("Least confidence", threshold),
        ("Poses right, expected", f"{summary['expected_share_right_of_kept']:.0%} of those kept"),
        ("Models", ", ".join(summary["models"]) or "none"),
        ("Evidence for poses", EVIDENCE_WORDS.get(summary.get("evidence", "network"), "")),
        ("Symmetry", summary["symmetry"]),
    ]


def _shares(record: InferenceRecord) -> str:
    shares = record.summary["share_above"]
    rows = [["Particles", *(f"{share:.1%}" for share in shares.values())]]
    return table_html(["Confidence of at least", *shares], rows)


def _time(record: InferenceRecord) -> str:
    summary = record.summary
    text = f"{summary['particles']:,} particles in {duration_text(summary['seconds'])}"
    pace = f", {summary['particles_per_second']:.0f} a second" if summary.get("particles_per_second") else ""
    processes = f", by {summary['processes']} processes" if summary.get("processes", 1) > 1 else ""
    return f"<p>{text}{pace}{processes}.</p>"


def _map(record: InferenceRecord) -> str:
    """The correlation of the half maps, where they were made."""
    columns = read_fsc(record.folder / RECONSTRUCTION / "fsc.csv")
    if columns is None or not any(record.summary["asked"].get(name) for name in ("reconstruct", "iterations")):
        return ""
    found, figure = read_json(record.folder / RECONSTRUCTION / "reconstruction.json"), new_figure(7.0, 4.4)
    draw_fsc(figure, columns, found.get("resolution_angs"))
    note = "" if record.summary.get("evidence", "network") == "network" else REFERENCE_NOTE
    return figure_html(figure, MAP_NOTE) + note


@styled
def draw_confidences(figure: Any, record: InferenceRecord) -> None:
    """Two panels: the histogram of confidence, and what a threshold would keep."""
    histogram = record.summary.get("histogram")
    if not histogram or not sum(histogram["counts"]):
        say_nothing_yet(figure, "No poses have been found yet.")
        return
    edges, counts = 100 * np.array(histogram["edges"]), np.array(histogram["counts"], dtype=float)
    left, right = figure.subplots(1, 2)
    left.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE)
    left.set(xlabel="Confidence (%)", ylabel="Particles", xlim=(0, 100))
    centres = (edges[1:] + edges[:-1]) / 2
    above, right_above = np.cumsum(counts[::-1])[::-1], np.cumsum((counts * centres)[::-1])[::-1]
    some = above > 0
    right.plot(edges[:-1], 100 * above / above[0], color=BLUE, label="particles")
    right.plot(edges[:-1][some], right_above[some] / above[some], color=ORANGE, label="right poses among them")
    right.set(xlabel="Least confidence (%)", ylabel="Share (%)", xlim=(0, 100), ylim=(0, 102))
    right.legend(loc="lower left")
    for axes in (left, right):
        if record.threshold is not None:
            axes.axvline(100 * record.threshold, color="black", linestyle="--", linewidth=1.2)
        axes.grid(True, alpha=0.25)


@styled
def draw_views(figure: Any, record: InferenceRecord) -> None:
    """Two maps: how many particles were seen from each direction, and how sure their poses are."""
    views = record.views
    if views is None or not views["n"].sum():
        say_nothing_yet(figure, "No poses have been kept yet.")
        return
    numbers, confidence = figure.subplots(1, 2)
    count = np.where(views["n"] > 0, views["n"], np.nan)
    highest = max(1.0, float(np.percentile(views["n"], 99)))
    draw_map(numbers, views, count, "Particles in a cell of 7° × 7°", "viridis", (0.0, highest), above=views["n"].max() > highest)
    shown = np.where(views["n"] > 0, 100 * views["mean_confidence"], np.nan)
    draw_map(confidence, views, shown, "Mean confidence (%)", "plasma", (0.0, 100.0), above=False)


@styled
def draw_calibrations(figure: Any, record: InferenceRecord) -> None:
    """The reliability of each model's confidence, before and after its calibration."""
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, zorder=0)
    for name, found in record.summary.get("calibration", {}).items():
        before, after = (Bins(*(np.array(found[when][key]) for key in ("stated", "true", "count"))) for when in ("before", "after"))
        colour = COLOURS.get(name, "black")
        label = f"{name}: {100 * found['gap_after']:.0f} points off (before: {100 * found['gap_before']:.0f})"
        axes.plot(100 * before.stated, 100 * before.true, "o", color=colour, markerfacecolor="none", markersize=5)
        axes.plot(100 * after.stated, 100 * after.true, "o", color=colour, markersize=5, label=label)
        axes.vlines(100 * after.stated, *(100 * end for end in after.interval), color=colour, linewidth=1)
    radii = [found["radius_degs"] for found in record.summary.get("calibration", {}).values()]
    axes.set(xlim=(0, 101), ylim=(0, 102), xlabel="Confidence (%)", ylabel=f"Particles under {max(radii, default=0):.0f}° (%)")
    axes.legend(loc="lower right")
    axes.grid(True, alpha=0.25)
