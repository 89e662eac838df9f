"""What the settings tell: folders, an earlier run of the same kind, the model that fine-tuning starts from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryopares_core.config.merge import to_yaml
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.model.storage import copy_weights, read_weights
from cryopares_core.plots.readers import read_json, read_metrics
from cryopares_core.training.half_set import source_folder
from cryopares_core.training.plan import Plan
from cryopares_core.training.runs import input_files, is_finished, same_run

SAMPLING_TOLERANCE = 0.01


def earlier_run(arguments: Any, config: Config, continued_dir: Path | None) -> Path | None:
    """The folder that this command would go on in; None where it starts a new one."""
    save_dir = Path(arguments.train_save_dir)
    return continued_dir or same_run(save_dir, asdict(arguments), to_yaml(config), input_files(arguments))


def told_of_folder(arguments: Any, earlier: Path | None, half_names: list[str], continued: bool) -> str:
    """Where the results would go. `continued`: the user named the earlier run, and may want more epochs than it was begun with."""
    if earlier is None:
        return f"Results go to a new folder in {arguments.train_save_dir}."
    counts = {name: epochs_done(earlier, name) for name in half_names}
    if min(counts.values()) >= arguments.n_epochs if continued else is_finished(earlier):
        return f"{earlier} holds this very run, finished: training would do nothing. Another seed or folder trains it anew."
    done = ", ".join(f"{name} {count} of {arguments.n_epochs} epochs" for name, count in counts.items())
    return f"{earlier} holds this very run, unfinished: it goes on ({done})."


def epochs_done(folder: Path | None, half_name: str) -> int:
    """How many epochs of a half set an earlier run has finished."""
    return len(read_metrics(folder / half_name / "metrics.jsonl")) if folder else 0


def finetune_doubts(plan: Plan, half_names: list[str]) -> list[str]:
    """What does not fit between a trained model and this run, one sentence each.

    Raises
    ------
    UserError : a model is damaged, or nothing of it fits
    """
    found = []
    for source in dict.fromkeys(source_folder(Path(plan.arguments.finetune_checkpoint_dir), name) for name in half_names):
        network = plan.network()
        problems = copy_weights(network, read_weights(source))
        if len(problems) == len(network.state_dict()):
            raise UserError(f"{source}: none of the model's layers fits this network. Use the settings that it was trained with.")
        if problems:
            found.append(f"Fine-tuning from {source}: {len(problems)} layers start afresh (first: {problems[0]}).")
        found += _card_doubts(plan, source)
    return found


def _card_doubts(plan: Plan, source: Path) -> list[str]:
    """Pictures of another kind than the model knows."""
    card, found = read_json(source / "model.json"), []
    prepared = card.get("config", {}).get("datamanager", {}).get("particlesDataset", {})
    pairs = {
        "symmetry": (card.get("symmetry"), plan.symmetry),
        "box in px": (card.get("image_size_px"), plan.image_size_px),
        "CTF correction": (prepared.get("ctf_correction"), plan.preprocessing.ctf_mode),
    }
    for what, (its, ours) in pairs.items():
        if its is not None and its != ours:
            found.append(f"Fine-tuning from {source}: its {what} was {its}, here it is {ours}. Use the model's, or train afresh.")
    sampling = card.get("sampling_rate_angs")
    if sampling and abs(plan.sampling_rate_angs / sampling - 1) > SAMPLING_TOLERANCE:
        found.append(
            f"Fine-tuning from {source}: it knows pictures of {sampling:.4g} Å/px, here they have {plan.sampling_rate_angs:.4g}. "
            f"Give --config datamanager.particlesDataset.sampling_rate_angs_for_nnet={sampling:.4g}."
        )
    return found
