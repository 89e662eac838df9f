"""What batches of an inference have left, taken together as if they were one, for the viewer, the report and the summary."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from cryopares_core.plots.consensus import consensus_text, histogram_median
from cryopares_core.plots.inference import FILE, RECONSTRUCTION, REPORT, VIEW_COLUMNS, VIEWS, read_inference, write_inference_report
from cryopares_core.plots.readers import Columns, read_json
from cryopares_plugin.files import appearing

Summary = Dict[str, Any]
SUMS = ("particles", "kept", "broken", "seconds")
RECONSTRUCTED = "reconstruction.json"


def write_whole(folder: str, batches: Sequence[str]) -> None:
    """Write `infer.json` and `views.csv` of all batches that are finished into a folder; nothing where none is.

    Parameters
    ----------
    batches : their results folders
    """
    records = [record for record in map(read_inference, batches) if record.summary and record.views is not None]
    if not records:
        return
    with appearing(os.path.join(folder, VIEWS)) as file:
        file.write(_csv(merged_views([record.views for record in records if record.views is not None])))
    summary = merged_summary([record.summary for record in records])
    summary["asked"] = {**summary["asked"], "reconstruct": os.path.isdir(os.path.join(folder, RECONSTRUCTION))}
    with appearing(os.path.join(folder, FILE)) as file:
        json.dump(summary, file, indent=1)


def merged_summary(parts: Sequence[Summary]) -> Summary:
    """The content of an `infer.json` for all particles. Counts are added, shares weighted; for the rest the last one speaks."""
    good = [part["particles"] - part["broken"] for part in parts]
    kept = [part["kept"] for part in parts]
    whole: Summary = {**parts[-1], **{name: sum(part[name] for part in parts) for name in SUMS}}
    whole["expected_share_right"] = _mean([part["expected_share_right"] for part in parts], good)
    whole["expected_share_right_of_kept"] = _mean([part["expected_share_right_of_kept"] for part in parts], kept)
    limits = parts[-1]["share_above"]
    whole["share_above"] = {limit: _mean([part["share_above"][limit] for part in parts], good) for limit in limits}
    counts = np.sum([part["histogram"]["counts"] for part in parts], axis=0)
    whole["histogram"] = {"edges": parts[-1]["histogram"]["edges"], "counts": counts.tolist()}
    compared = [part["consensus"] for part in parts if "consensus" in part]
    whole.update({"consensus": _merged_consensus(compared)} if compared else {})
    whole["models"] = list(dict.fromkeys(name for part in parts for name in part["models"]))
    whole["calibration"] = {name: found for part in parts for name, found in part["calibration"].items()}
    whole["warnings"] = list(dict.fromkeys(text for part in parts for text in part["warnings"]))
    whole["particles_per_second"] = round(whole["particles"] / max(whole["seconds"], 1e-6), 2)
    return whole


def _merged_consensus(parts: Sequence[Summary]) -> Summary:
    """How far the half models disagree, for all particles."""
    edges, counts = parts[-1]["histogram"]["edges"], np.sum([part["histogram"]["counts"] for part in parts], axis=0)
    shares = [part["share_within_5_degs"] for part in parts]
    return {
        "max_error_degs": parts[-1]["max_error_degs"],
        "median_degs": parts[0]["median_degs"] if len(parts) == 1 else histogram_median(edges, counts),
        "share_within_5_degs": _mean(shares, [sum(part["histogram"]["counts"]) for part in parts]),
        "dropped": sum(part["dropped"] for part in parts),
        "histogram": {"edges": edges, "counts": counts.tolist()},
    }


def merged_views(parts: Sequence[Columns]) -> Columns:
    """Columns of a `views.csv` for all particles."""
    numbers = np.array([part["n"] for part in parts])
    total = np.sum([part["n"] * part["mean_confidence"] for part in parts], axis=0)
    n = numbers.sum(axis=0)
    return {**parts[-1], "n": n, "mean_confidence": total / np.maximum(n, 1)}


def report_page(folder: str) -> str:
    """The address of the report on all batches, which is written anew where the user may write.

    Raises OSError where there is none and it cannot be written.
    """
    report = Path(folder, REPORT)
    if os.access(folder, os.W_OK) or not report.is_file():
        write_inference_report(folder)
    return report.absolute().as_uri()


def resolution_angs(folder: str) -> Optional[float]:
    """That of the map; None where there is no map, or its halves agree nowhere."""
    found: Optional[float] = read_json(Path(folder, RECONSTRUCTION, RECONSTRUCTED)).get("resolution_angs")
    return found


def summary(folder: str) -> List[str]:
    """How many poses were found, how sure they are, and how good the map is."""
    whole = read_inference(folder).summary
    if not whole:
        return ["No poses have been found yet."]
    threshold = whole["threshold"]
    which = "" if threshold is None else f" (confidence of at least {threshold:g})"
    lines = [f"{whole['kept']:,} of {whole['particles']:,} particles are kept{which}."]
    if whole["kept"]:
        lines.append(f"By their confidence {whole['expected_share_right_of_kept']:.0%} of their poses are within 5°.")
    else:
        lines.append("Lower 'Least confidence' and continue the run: the poses are not found anew.")
    if "consensus" in whole:
        lines.append(consensus_text(whole["consensus"]))
    if os.path.isfile(os.path.join(folder, RECONSTRUCTION, RECONSTRUCTED)):
        resolution = resolution_angs(folder)
        lines.append(
            f"Resolution of the map: {resolution:.2f} Å." if resolution else "The half maps do not agree at any resolution."
        )
    return lines + [f"Warning: {text}" for text in whole["warnings"]]


def methods(folder: str) -> List[str]:
    """A paragraph for a paper."""
    whole = read_inference(folder).summary
    if not whole:
        return []
    asked, threshold = whole["asked"], whole["threshold"]
    models = "each by the network of its own half set" if len(whole["models"]) > 1 and asked["policy"] == "same_half" else ""
    models = models or ("by the networks of both half sets together" if asked["policy"] == "both" else "by one network")
    text = f"The poses of {whole['particles']:,} particles were found with CryoPARES [SanchezGarcia2025], {models}"
    text += f", and refined against a map at {asked['resolution_angs']:g} Å." if asked["refine"] else "."
    if threshold is not None:
        text += f" {whole['kept']:,} particles with a confidence of at least {threshold:g} were kept."
    if whole.get("consensus", {}).get("max_error_degs") is not None:
        text += f" Particles for which the models of both half sets disagreed by {whole['consensus']['max_error_degs']:g}° or more "
        text += "were left out."
    resolution = resolution_angs(folder)
    text += f" Their half maps agree to {resolution:.2f} Å (FSC 0.143)." if resolution else ""
    return [text]


def _mean(values: List[float], weights: List[int]) -> float:
    return float(np.average(values, weights=weights)) if sum(weights) else 0.0


def _csv(views: Columns) -> str:
    rows = ("{:.4f},{:.4f},{:.0f},{:.4f}".format(*row) for row in zip(*(views[name] for name in VIEW_COLUMNS)))
    return "\n".join([",".join(VIEW_COLUMNS), *rows, ""])
