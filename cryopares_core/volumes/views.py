"""Views of a map, made when they are needed, as the network would see real particles of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cryopares_core.geometry.rotations import (
    euler_degs_to_matrix,
    matrix_to_euler_degs,
    quaternion_to_matrix,
    random_rotations,
)
from cryopares_core.particles.batches import Batch
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.particles.preprocess import Preprocessor, PreprocessSettings, circular_mask
from cryopares_core.volumes.maps import resample_map
from cryopares_core.volumes.particle_rows import SimulationSettings, draw_particles
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.simulate import DISC_SHARE, signal_deviation, simulate_pictures

FIRST_SNR = 2.0
VIEWS_FOR_SIGNAL = 200


class ViewSimulator:
    """Makes pictures with known poses: projection, CTF, noise, and then the very preparation that real pictures get.

    Parameters
    ----------
    volume : `(n, n, n)` `[z, y, x]`
    pixel_size_angs : of the volume
    settings : of the preparation, with sampling and size as numbers
    ctf : the microscope's settings to draw from, `(k,)`
    device : where the work is done
    """

    def __init__(
        self, volume: np.ndarray, pixel_size_angs: float, settings: PreprocessSettings, ctf: CtfTensors, device: torch.device
    ):
        box, self.pixel_size_angs = _working_grid(len(volume), pixel_size_angs, settings.target_sampling(pixel_size_angs))
        self.device, self.ctf = device, ctf
        self.projector = Projector(torch.from_numpy(resample_map(volume, box)).to(device))
        self.preprocess = Preprocessor(settings)
        self.signal = self._signal(box)

    def _signal(self, box: int) -> float:
        """The signal's standard deviation inside the particle's disc, as in `cryopares_simulate`."""
        generator = torch.Generator().manual_seed(0)
        disc = circular_mask(box, DISC_SHARE * box, device=self.device) > 0
        clean = self._clean(random_rotations(VIEWS_FOR_SIGNAL, generator), self._draw_ctf(VIEWS_FOR_SIGNAL, generator))
        return signal_deviation(clean[:, disc])

    def draw(self, count: int, snr: float, generator: torch.Generator) -> Batch:
        """New views of random directions, prepared: pictures `(count, c, s, s)` float16 and their angles, on the CPU.

        Parameters
        ----------
        snr : variance of the signal in the particle's disc over that of the noise
        generator : of the poses, the CTFs and the seeds of the noise; on the CPU
        """
        eulers_degs = matrix_to_euler_degs(random_rotations(count, generator)).float()
        ctf = self._draw_ctf(count, generator)
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        return Batch(self.pictures(eulers_degs, ctf, snr, seeds).half().cpu(), eulers_degs)

    def pictures(self, eulers_degs: Tensor, ctf: CtfTensors, snr: float | Tensor, seeds: Sequence[int]) -> Tensor:
        """Prepared pictures of given poses `(b, 3)` in degrees and CTFs, `(b, c, s, s)` float32 on the device.

        `snr` is that of all or of each, `(b,)`; each picture's noise has a seed of its own.
        """
        raw = self._clean(euler_degs_to_matrix(eulers_degs), ctf)
        deviation = self.signal / torch.as_tensor(snr).sqrt().expand(len(raw)).to(raw)
        generator = torch.Generator(device=self.device)
        noise = [torch.randn(raw.shape[1:], generator=generator.manual_seed(seed), device=self.device) for seed in seeds]
        raw.addcmul_(deviation[:, None, None], torch.stack(noise))
        return self.preprocess(raw, ctf, self.pixel_size_angs, self._centred(len(raw)))

    def _clean(self, poses: Tensor, ctf: CtfTensors) -> Tensor:
        return simulate_pictures(self.projector, poses.to(self.device), ctf, self._centred(len(poses)), self.pixel_size_angs)

    def _centred(self, count: int) -> Tensor:
        return torch.zeros(count, 2, device=self.device)

    def _draw_ctf(self, count: int, generator: torch.Generator) -> CtfTensors:
        return self.chosen_ctf(torch.randint(len(self.ctf), (count,), generator=generator))

    def chosen_ctf(self, indices: Tensor) -> CtfTensors:
        """Some of the microscope's settings, `(k,)`, on the device."""
        return self.ctf.chosen(indices, self.device)


def _working_grid(size: int, pixel_size_angs: float, target_angs: float) -> tuple[int, float]:
    """Side and pixel size to project at: the map's extent, at an even side that is no coarser than the target."""
    box = min(size, 2 * math.ceil(size * pixel_size_angs / max(target_angs, pixel_size_angs) / 2))
    return box, pixel_size_angs * size / box


def usual_ctfs(seed: int = 0) -> CtfTensors:
    """Settings of microscopes to draw from where there are no particles: those of `cryopares_simulate`."""
    settings = SimulationSettings(seed=seed)
    return draw_particles(settings, 64, 1.0, "none").rows(np.arange(settings.n_particles)).ctf


class SimulatedViews(Dataset):
    """New views for every epoch, with less and less signal.

    A view follows from the seed, the epoch and its place alone: an epoch that is begun again in its middle, or shared by several
    processes, has the same views. The SNR falls geometrically from 2 at the first to `last_snr` after the last.

    Parameters
    ----------
    views_an_epoch, n_epochs : how many views there are to be in all
    seed : of poses, CTFs and noise
    """

    in_order = True  # shuffled, the signal would not fall within an epoch

    def __init__(self, simulator: ViewSimulator, views_an_epoch: int, n_epochs: int, last_snr: float, seed: int):
        self.simulator, self.views_an_epoch, self.total = simulator, views_an_epoch, views_an_epoch * n_epochs
        self.last_snr, self.seed, self.epoch = last_snr, seed, 0

    def __len__(self) -> int:
        return self.views_an_epoch

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's views are asked for from now on; the first is 0."""
        self.epoch = epoch

    def snr(self, positions: Sequence[int]) -> Tensor:
        """The signal-to-noise ratios of views of this epoch, `(k,)`."""
        done = (self.epoch * self.views_an_epoch + torch.as_tensor(positions)) / max(1, self.total)
        return FIRST_SNR * (self.last_snr / FIRST_SNR) ** done.clamp(max=1.0)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Views of this epoch; pictures on the simulator's device, angles on the CPU."""
        generators = [np.random.default_rng((self.seed, self.epoch, int(position))) for position in positions]
        quaternions = torch.from_numpy(np.stack([generator.standard_normal(4) for generator in generators]))
        settings = torch.tensor([generator.integers(len(self.simulator.ctf)) for generator in generators])
        seeds = [int(generator.integers(2**62)) for generator in generators]
        eulers_degs = matrix_to_euler_degs(quaternion_to_matrix(quaternions)).float()
        ctf = self.simulator.chosen_ctf(settings)
        return Batch(self.simulator.pictures(eulers_degs, ctf, self.snr(positions), seeds).half(), eulers_degs)
