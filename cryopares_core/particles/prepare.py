"""All pictures of a table, prepared: batch by batch, or all at once in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.memory import free_memory_bytes
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.order import file_order
from cryopares_core.particles.preprocess import Preprocessor, PreprocessSettings
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.table import ParticleTable
from cryopares_core.particles.usable import extremes, within_range
from cryopares_core.progress import size_text

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]

LARGEST_FLOAT16 = 6e4
MEMORY_SHARE = 0.8  # of what is free: training needs some too
FINER_ALLOWED = 0.99
NAMES_SHOWN = 20


def complete_settings(table: ParticleTable, settings: PreprocessSettings) -> PreprocessSettings:
    """The settings with sampling and size as numbers, fit for all particles of the table.

    Without a prescribed sampling, particles of several pixel sizes are brought to the coarsest one; without a
    prescribed size, to the smallest picture. Warns of both, and of a sampling finer than the data's.
    """
    kinds = sorted({(int(box), float(pixel)) for box, pixel in zip(table.image_size_px, table.pixel_size_angs, strict=True)})
    coarsest = max(pixel for _, pixel in kinds)
    sampling = settings.sampling_rate_angs or coarsest
    if sampling < FINER_ALLOWED * coarsest:
        logger.warning(
            "Pictures of %.4g Å/px are interpolated to %.4g Å/px: that costs time and shows no more detail.",
            coarsest,
            sampling,
        )
    if settings.sampling_rate_angs is None and len({pixel for _, pixel in kinds}) > 1:
        logger.warning("The particles have several pixel sizes: all are brought to the coarsest, %.4g Å/px.", coarsest)
        settings = replace(settings, sampling_rate_angs=sampling)
    sizes = {settings.target_size(box, pixel) for box, pixel in kinds}
    if len(sizes) > 1:
        logger.warning("The particles have several box sizes: all are cropped to the smallest, %d px.", min(sizes))
    return replace(settings, sampling_rate_angs=sampling, image_size_px=min(sizes))


def prepare_particles(
    table: ParticleTable,
    settings: PreprocessSettings,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """Read, correct, rescale and normalise all pictures of a table: `(n, c, s, s)` float16 in memory, in table order.

    Parameters
    ----------
    settings : as from the user; see `complete_settings` for what is left open.
    device : where the work is done.
    batch_size : pictures at a time.
    progress : called with the number of pictures done and their total.

    Raises UserError when the result does not fit in memory, and with the names of all pictures that are constant or
    hold values that are not finite.
    """
    if settings.sampling_rate_angs is None or settings.image_size_px is None:
        settings = complete_settings(table, settings)
    shape = prepared_shape(table, settings)
    _check_memory(shape)
    store, done = torch.empty(shape, dtype=torch.float16), 0
    for _, indices, pictures in prepared_batches(table, settings, device, batch_size):
        store[torch.from_numpy(indices)] = pictures
        done += len(indices)
        if progress:
            progress(done, len(table))
    return store


def prepared_shape(table: ParticleTable, settings: PreprocessSettings) -> tuple[int, int, int, int]:
    """`(n, c, s, s)` of all prepared pictures; `settings` with the size as a number."""
    size = settings.image_size_px or 0
    return len(table), settings.channels, size, size


def prepared_batches(
    table: ParticleTable,
    settings: PreprocessSettings,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    done: Container[int] = (),
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Each batch's number, its particles' indices `(b,)` and their pictures `(b, c, s, s)` float16, in the order of the files.

    Parameters
    ----------
    settings : with sampling and size as numbers
    done : numbers of batches that are not wanted again; the same table and batch size have the same batches

    Raises UserError, at the end, with the names of all pictures that are constant or hold values that are not finite. Batches
    with such pictures are not given.
    """
    preprocess, problems = Preprocessor(settings), []
    wanted = ((number, indices) for number, indices in enumerate(batches_of_files(table, batch_size)) if number not in done)
    for number, indices, images in read_ahead(table, wanted):
        found = picture_problems(table, indices, images)
        problems += found
        if not found:
            yield number, indices, _prepared(preprocess, table, indices, images, device)
    if problems:
        raise UserError(shortened_problems(problems))


def _prepared(
    preprocess: Preprocessor, table: ParticleTable, indices: np.ndarray, images: np.ndarray, device: torch.device | str
) -> Tensor:
    """One batch of pictures of one kind, float16 on the CPU."""
    shifts = torch.as_tensor(table.shifts_angs[indices], dtype=torch.float32, device=device)
    ctf = ctf_tensors(table.ctf, indices, device)
    pixel_size = float(table.pixel_size_angs[indices[0]])
    pictures = preprocess(torch.from_numpy(images).to(device), ctf, pixel_size, shifts)
    return pictures.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half().cpu()


def batches_of_files(table: ParticleTable, batch_size: int) -> Iterator[np.ndarray]:
    """Indices of pictures of one box and pixel size, in the order in which they lie in the files."""
    order = file_order(table)
    pixel, box = table.pixel_size_angs[order], table.image_size_px[order]
    borders = np.flatnonzero((pixel[1:] != pixel[:-1]) | (box[1:] != box[:-1])) + 1
    for group in np.split(order, borders):
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def read_ahead(table: ParticleTable, batches: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Numbers, indices and raw pictures; the next batch is read while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = None
        for number, indices in batches:
            coming = (number, indices, reader.submit(read_images, table, indices))
            if waiting:
                yield waiting[0], waiting[1], waiting[2].result()
            waiting = coming
        if waiting:
            yield waiting[0], waiting[1], waiting[2].result()


def picture_problems(table: ParticleTable, indices: np.ndarray, images: np.ndarray) -> list[str]:
    """What is wrong with pictures `(b, n, n)` of particles `indices`, one sentence for each that cannot be used."""
    lowest, highest = extremes(images)
    finite, problems = within_range(lowest, highest), []
    for row in np.flatnonzero(~finite | (lowest == highest)):
        name = f"{table.slice_id[indices[row]] + 1:06d}@{table.stack_paths[table.stack_id[indices[row]]]}"
        fault = f"all its pixels are {lowest[row]:g}" if finite[row] else _not_finite(lowest[row], highest[row])
        problems.append(f"Picture {name}: {fault}. Remove it from the STAR file, or mend the stack.")
    return problems


def _not_finite(lowest: float, highest: float) -> str:
    largest = max(-lowest, highest)
    return f"its pixels reach {largest:.3g}, which cannot be" if np.isfinite(largest) else "it has NaN or infinite pixels"


def shortened_problems(problems: list[str]) -> list[str]:
    if len(problems) <= NAMES_SHOWN:
        return problems
    return [*problems[:NAMES_SHOWN], f"... and {len(problems) - NAMES_SHOWN} more pictures like these."]


def _check_memory(shape: tuple[int, ...]) -> None:
    """Raise UserError before any work is done when a float16 array of this shape does not fit."""
    needed, free = 2 * int(np.prod(shape, dtype=np.int64)), free_memory_bytes()
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"The prepared pictures ({shape[0]} of {shape[-1]} px) need {size_text(needed)} of memory, and "
            f"{size_text(free)} are free, of which {MEMORY_SHARE:.0%} may be used: choose a smaller "
            "datamanager.particlesDataset.image_size_px_for_nnet with a larger sampling_rate_angs_for_nnet, or a "
            "machine with more memory."
        )
