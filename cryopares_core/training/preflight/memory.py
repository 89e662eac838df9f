"""The memory that a training will take, and room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from cryopares_core import scratch
from cryopares_core.config.advice import store_bytes
from cryopares_core.memory import free_memory_bytes
from cryopares_core.particles.prepare import MEMORY_SHARE
from cryopares_core.particles.store import store_key
from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import size_text
from cryopares_core.training.estimate import step_memory
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight.findings import COST, Findings


def look_at_memory(found: Findings, plan: Plan, table: ParticleTable | None, n_gpus: int) -> None:
    """Whether prepared pictures find room, in memory or on a disk, and a training step too."""
    kept = _look_at_store(found, plan, table) if table is not None else 0.0
    pictures = max(1, plan.arguments.batch_size // n_gpus)
    needed = step_memory(plan.network(), plan.image_size_px, plan.device, plan.config.train.precision).of(pictures)
    free = torch.cuda.mem_get_info(plan.device)[0] if plan.device.type == "cuda" else free_memory_bytes() - kept
    where = "of the GPU" if plan.device.type == "cuda" else "of the machine"
    found.measured["step_bytes"], text = round(needed), f"A training step on {pictures} pictures takes about {size_text(needed)}"
    if needed > free:
        remedy = "Lower --batch_size (or set it to auto), or take a smaller box or network."
        found.warn(COST, [f"{text}, and {size_text(max(0, free))} {where} are free. {remedy}"])
    else:
        found.ok(COST, f"{text}; {size_text(free)} {where} are free.")


def _look_at_store(found: Findings, plan: Plan, table: ParticleTable) -> float:
    """Where the prepared pictures go; returns the main memory that they take."""
    needed, free = store_bytes(len(table), plan.image_size_px, plan.preprocessing.channels), free_memory_bytes()
    found.measured["prepared_bytes"] = needed
    asked = plan.arguments.scratch_dir
    text = f"The prepared pictures take {size_text(needed)}"
    if not asked and needed <= MEMORY_SHARE * free:
        found.ok(COST, f"{text}, in memory, of which {size_text(free)} are free.")
        return needed
    folder = Path(asked or plan.arguments.train_save_dir)
    if scratch.Entry(folder / f"{scratch.PREFIX}{store_key(table, plan.preprocessing)}").complete:
        found.ok(COST, f"The prepared pictures are there already, in {folder}.")
        return 0.0
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    on_disk = shutil.disk_usage(existing).free
    if needed > on_disk:
        remedy = "Make room, or give another folder with --scratch_dir."
        found.refuse(COST, [f"{text}, on the disk of {folder}, where {size_text(on_disk)} are free. {remedy}"])
    elif asked:
        found.ok(COST, f"{text}, on the disk of {folder}, where {size_text(on_disk)} are free.")
    else:
        slow = "A folder on a fast local disk, given with --scratch_dir, serves better."
        found.warn(COST, [f"{text}, too much for the memory ({size_text(free)} free): they go to a file in {folder}. {slow}"])
    return 0.0
