"""What Scipion shows of a run in words: the summary, and a paragraph for a paper."""

from typing import Any, List, Optional

from cryopares_core.plots.records import RunRecord, best_error, read_run, summary_lines
from cryopares_plugin.resume import GOES_ON, is_begun


def summary(run_dir: str, model: Optional[Any] = None, goes_on: bool = False) -> List[str]:
    """How far a run is, how good its models are, and what they expect of pictures.

    Parameters
    ----------
    goes_on : whether it is being trained just now
    """
    record = read_run(run_dir)
    lines = summary_lines(record) or ["Not started yet."]
    if is_begun(run_dir) and not goes_on and not record.finished:
        lines.append(f"It was stopped before its last epoch, and has saved where it was. {GOES_ON}")
    if model is not None:
        lines.append(
            f"Symmetry {model.getSymmetry()}, pictures of {model.getBoxSize()} px at {model.getSamplingRate():.2f} Å/px. "
            f"Models: {', '.join(model.getHalfSets())}."
        )
    return lines + [f"Warning: {text}" for text in record.warnings]


def methods(run_dir: str, trained_on: str) -> List[str]:
    """A paragraph for a paper.

    Parameters
    ----------
    trained_on : the input in words, such as `100,000 particles of known pose`
    """
    record = read_run(run_dir)
    if not record.halves or not record.n_epochs:
        return []
    half_sets = "one network for each half set" if len(record.expected) > 1 else "one network"
    network = f"symmetry {record.symmetry}{_pictures(record)}"
    text = f"With CryoPARES [SanchezGarcia2025] {half_sets} was trained on {trained_on} ({network}) for "
    text += f"{record.n_epochs} epochs, of which the one with the lowest validation loss was kept."
    error = best_error(record)
    if error:
        text += f" The angular error of particles that were held out was {error[0]:.1f}° on average (median {error[1]:.1f}°)."
    return [text]


def _pictures(record: RunRecord) -> str:
    if not record.image_size_px or not record.sampling_rate_angs:
        return ""
    return f", pictures of {record.image_size_px} px at {record.sampling_rate_angs:.2f} Å/px"
