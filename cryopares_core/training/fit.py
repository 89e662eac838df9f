"""One stage of training: from some data to a model in a folder."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.model.storage import ModelCard, save_card, save_model
from cryopares_core.plots.readers import read_metrics
from cryopares_core.training.checkpoints import told_in_one_sentence
from cryopares_core.training.loop import Loop
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.plan import Plan, Stage, StageResult
from cryopares_core.training.records import Validated

logger = logging.getLogger(__name__)


def fit(plan: Plan, stage: Stage, network: PoseNetwork, state: dict[str, Any] | None) -> StageResult:
    """Train, keep the best epoch as `model.safetensors`, and return its metrics.

    Parameters
    ----------
    state : what the stage's last checkpoint holds, of a run that goes on

    Raises
    ------
    UserError : training diverged, or the memory or the disk is too small
    KeyboardInterrupt : the run was stopped
    """
    with plan.phases("start-up"):
        stage.folder.mkdir(parents=True, exist_ok=True)
        loop = Loop(plan, stage, _module(plan, network), lambda *found: _keep_best(plan, stage, network, *found))
        if state:
            loop.restore(state)
            _tell_where(loop)
    with plan.phases("training steps"):
        loop.run()
    with plan.phases("saving"):
        return _result(plan, stage, loop)


def _module(plan: Plan, network: PoseNetwork) -> PoseTraining:
    module = PoseTraining(network, plan.symmetry, plan.mask, uses_bfloat16(plan.config.train.precision, plan.device))
    if plan.arguments.compile_model:
        on_processor = " On a processor the steps are no faster afterwards." if plan.device.type == "cpu" else ""
        logger.info("Compiling the network: the first step takes a minute or more.%s", on_processor)
        module.compile_step(whole=plan.fabric.world_size == 1)
    return module


def _tell_where(loop: Loop) -> None:
    at, title = loop.at, loop.stage.title
    if loop.finished:
        logger.info("%s: finished earlier", title)
    elif at.step:
        logger.info("%s: goes on in epoch %d, after %d of its %d batches", title, at.epoch + 1, at.batch, len(loop.train))


def _keep_best(plan: Plan, stage: Stage, network: PoseNetwork, epoch: int, metrics: dict[str, Any], validated: Validated) -> None:
    """Keeps the best epoch: the model, and what it found for the pictures held out."""
    with plan.phases("saving"), told_in_one_sentence(stage.folder / "model.safetensors"):
        save_model(stage.folder, _card(plan, stage, {"epoch": epoch, **metrics}, epoch), network)
        stage.records.write(validated)


def _card(plan: Plan, stage: Stage, best: dict[str, Any], n_epochs: int, **more: Any) -> ModelCard:
    return ModelCard(
        symmetry=plan.symmetry,
        sampling_rate_angs=plan.sampling_rate_angs,
        image_size_px=plan.image_size_px,
        in_channels=plan.preprocessing.channels,
        config=asdict(plan.config),
        half_set=stage.folder.name,
        training={"n_train": len(stage.train), "n_val": len(stage.held_out), "epochs": n_epochs, "best": best, **more},
    )


def _result(plan: Plan, stage: Stage, loop: Loop) -> StageResult:
    """The finished stage; its model's card now counts all epochs."""
    plan.fabric.barrier()
    epochs = read_metrics(stage.folder / "metrics.jsonl")
    best = min(epochs, key=lambda line: line.get("val_loss", float("inf")))
    if plan.fabric.is_global_zero:
        ended = {"finished": stage.n_epochs, "stopped_early": loop.at.ended}
        save_card(stage.folder, _card(plan, stage, best, len(epochs), **ended))
    return StageResult(stage.folder.name, stage.folder, best, epochs)
