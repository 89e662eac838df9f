"""Simulated particles from a map, as a RELION STAR file and stacks, with the truth in the STAR file.

A picture is the map's projection times the CTF, moved by minus the origin, with white noise. Values are rounded as they are
written before they are used, so that pictures and STAR file agree exactly.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path, write_text
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import CtfTensors, ctf_2d
from cryopares_core.particles.preprocess import circular_mask, normalise_background
from cryopares_core.progress import size_text
from cryopares_core.volumes.maps import write_map, write_stack
from cryopares_core.volumes.particle_rows import DrawnParticles, SimulationSettings, draw_particles
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.threads import one_thread_an_operation

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]

STAR_NAME, INFO_NAME, REFERENCE_NAME, STACK_FOLDER = "particles.star", "simulation.json", "reference.mrc", "Particles"
PICTURES_FOR_NOISE_LEVEL = 400
BATCH = 100
STAR_BYTES_PER_PARTICLE = 350
BACKGROUND_SHARE = 0.47  # background is what lies further from the centre than this share of the box
DISC_SHARE = 0.42  # the particle's disc, when no radius is given


def simulate_pictures(projector: Projector, poses: Tensor, ctf: CtfTensors, shifts_angs: Tensor, pixel_size_angs: float) -> Tensor:
    """Pictures without noise, `(b, n, n)` float32, all tensors on the projector's device.

    Parameters
    ----------
    poses : `(b, 3, 3)` pose matrices A.
    shifts_angs : `(b, 2)` x, y origins: the shift that would centre the particle, so that it stands at their negative.
    """
    n = projector.size
    device = shifts_angs.device
    fy, fx = torch.fft.fftfreq(n, device=device)[:, None], torch.fft.rfftfreq(n, device=device)
    origins = (shifts_angs / pixel_size_angs).float()
    phase = 2 * math.pi * (origins[:, 0, None, None] * fx + origins[:, 1, None, None] * fy)
    moved = projector.project_rfft(poses) * torch.polar(torch.ones_like(phase), phase)
    return torch.fft.irfft2(moved * ctf.in_pictures(ctf_2d(ctf, pixel_size_angs, n)), s=(n, n))


def signal_deviation(pixels: Tensor) -> float:
    """Standard deviation of the signal: from the mean over pictures of the variance of their pixels in the disc, `(b, k)`."""
    return math.sqrt(float(pixels.var(dim=1).mean()))


def simulate_particles(
    volume: np.ndarray,
    pixel_size_angs: float,
    out_dir: str | Path,
    settings: SimulationSettings,
    overwrite: bool = False,
    progress: Progress | None = None,
    about: dict | None = None,
) -> Path:
    """Write `particles.star`, its stacks, the map and `simulation.json` to a folder; returns the STAR file's path.

    Parameters
    ----------
    volume : `(n, n, n)` `[z, y, x]`; pictures have its box and pixel size.
    progress : called with the number of pictures written and their total.
    about : what else `simulation.json` shall tell.

    The STAR file comes last: where it stands, all is complete. Raises UserError when the folder holds a simulation already
    (without `overwrite`), or too little room is left on the disk.
    """
    out_dir, pixel_size_angs = Path(out_dir), round(pixel_size_angs, 6)
    _check_folder(out_dir, volume.shape[0], settings, overwrite)
    (out_dir / STACK_FOLDER).mkdir(parents=True, exist_ok=True)
    _remove_earlier(out_dir)
    drawn = draw_particles(settings, volume.shape[0], pixel_size_angs, STACK_FOLDER)
    written: list[Path] = []
    try:
        # The sampling of slices takes most of the time and uses one thread anyway.
        with one_thread_an_operation():
            noise_level = _write_stacks(volume, pixel_size_angs, out_dir, settings, drawn, written, progress)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    write_map(out_dir / REFERENCE_NAME, volume, pixel_size_angs)
    stacks = [str(path.relative_to(out_dir)) for path in written]
    info = {**asdict(settings), **(about or {}), "box_px": volume.shape[0], "pixel_size_angs": pixel_size_angs}
    write_text(out_dir / INFO_NAME, json.dumps({**info, "noise_level": noise_level, "stacks": stacks}, indent=1))
    with atomic_path(out_dir / STAR_NAME) as temporary:
        tables: dict[str, pd.DataFrame] = {"optics": drawn.optics, "particles": drawn.particles}
        starfile.write(tables, temporary, overwrite=True, float_format="%.6f")
    return out_dir / STAR_NAME


def _write_stacks(
    volume: np.ndarray,
    pixel_size_angs: float,
    out_dir: Path,
    settings: SimulationSettings,
    drawn: DrawnParticles,
    written: list[Path],
    progress: Progress | None,
) -> float:
    """All stacks, one in memory at a time, their paths added to `written`; returns the noise's standard deviation."""
    camera = _Camera(volume, pixel_size_angs, settings, drawn)
    count = settings.n_particles
    for stack in drawn.stack_names:
        start = len(written) * settings.stack_size
        pictures = np.empty((min(settings.stack_size, count - start), *volume.shape[1:]), settings.dtype)
        for first in range(0, len(pictures), BATCH):
            chosen = np.arange(start + first, start + min(first + BATCH, len(pictures)))
            pictures[chosen - start] = camera.noisy(chosen).numpy()
            if progress:
                progress(int(chosen[-1]) + 1, count)
        written.append(out_dir / stack)
        write_stack(written[-1], pictures, pixel_size_angs)
    return camera.noise_level


class _Camera:
    """Takes pictures of drawn particles; the noise's level follows from the wanted signal-to-noise ratio."""

    def __init__(self, volume: np.ndarray, pixel_size_angs: float, settings: SimulationSettings, drawn: DrawnParticles):
        self._projector = Projector(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)))
        self._pixel_size_angs, self._drawn = pixel_size_angs, drawn
        n = volume.shape[0]
        self._background = 1 - circular_mask(n, BACKGROUND_SHARE * n)
        self._generator = torch.Generator().manual_seed(settings.seed)
        radius_px = settings.mask_radius_angs / pixel_size_angs if settings.mask_radius_angs else DISC_SHARE * n
        self.noise_level = self._noise_level(circular_mask(n, radius_px) > 0, settings)

    def _noise_level(self, disc: Tensor, settings: SimulationSettings) -> float:
        last = min(PICTURES_FOR_NOISE_LEVEL, settings.n_particles)
        parts = [self.clean(np.arange(i, min(i + BATCH, last)))[:, disc] for i in range(0, last, BATCH)]
        return signal_deviation(torch.cat(parts)) / math.sqrt(settings.snr)

    def clean(self, chosen: np.ndarray) -> Tensor:
        """Pictures without noise, `(b, n, n)`."""
        rows = self._drawn.rows(chosen)
        poses = euler_degs_to_matrix(rows.eulers_degs)
        return simulate_pictures(self._projector, poses, rows.ctf, rows.shifts_angs, self._pixel_size_angs)

    def noisy(self, chosen: np.ndarray) -> Tensor:
        """Pictures with noise and normalised background, `(b, n, n)`."""
        pictures = self.clean(chosen)
        pictures += self.noise_level * torch.randn(pictures.shape, generator=self._generator)
        return normalise_background(pictures, self._background)


def _check_folder(out_dir: Path, box: int, settings: SimulationSettings, overwrite: bool) -> None:
    """Refuse what cannot end well before anything is written."""
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"--out_dir={out_dir} is a file: name a folder.")
    if (out_dir / STAR_NAME).exists() and not overwrite:
        raise UserError(f"{out_dir / STAR_NAME} exists already: give --overwrite, or another --out_dir.")
    if (out_dir / STAR_NAME).exists() and not (out_dir / INFO_NAME).exists():
        raise UserError(f"{out_dir / STAR_NAME} was not made by a simulation and is not overwritten: give another --out_dir.")
    existing = next(folder for folder in (out_dir.resolve(), *out_dir.resolve().parents) if folder.exists())
    pixels = settings.n_particles * box**2 * np.dtype(settings.dtype).itemsize
    needed = pixels + 4 * box**3 + STAR_BYTES_PER_PARTICLE * settings.n_particles
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"--out_dir={out_dir}: {size_text(needed)} are needed and {size_text(free)} are free there. "
            "Make room, write float16 (--dtype float16), or simulate fewer particles."
        )


def _remove_earlier(out_dir: Path) -> None:
    """An earlier simulation's STAR file and stacks go first: the folder never shows a mixture as complete."""
    info = out_dir / INFO_NAME
    (out_dir / STAR_NAME).unlink(missing_ok=True)
    if not info.exists():
        return
    try:
        stacks = json.loads(info.read_text(encoding="utf-8"))["stacks"]
    except (ValueError, KeyError, TypeError):
        stacks = []
    for stack in map(str, stacks):
        path = out_dir / STACK_FOLDER / Path(stack).name
        path.unlink(missing_ok=True)
    info.unlink()
