"""Views of a map, made when they are needed, as the network would see real particles of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, random_rotations
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
        """New views of random directions, prepared: pictures `(count, c, s, s)` float16 and their angles.

        Parameters
        ----------
        snr : variance of the signal in the particle's disc over that of the noise
        generator : of the poses, the CTFs and the seed of the noise; on the CPU
        """
        eulers_degs = matrix_to_euler_degs(random_rotations(count, generator)).float()
        ctf = self._draw_ctf(count, generator)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return Batch(self.pictures(eulers_degs, ctf, snr, seed).half(), eulers_degs)

    def pictures(self, eulers_degs: Tensor, ctf: CtfTensors, snr: float, seed: int) -> Tensor:
        """Prepared pictures of given poses `(b, 3)` in degrees and CTFs, `(b, c, s, s)` float32 on the CPU."""
        raw = self._clean(euler_degs_to_matrix(eulers_degs), ctf)
        noise = torch.Generator(device=self.device).manual_seed(seed)
        raw += self.signal / math.sqrt(snr) * torch.randn(raw.shape, generator=noise, device=self.device)
        return self.preprocess(raw, ctf, self.pixel_size_angs, self._centred(len(raw))).cpu()

    def _clean(self, poses: Tensor, ctf: CtfTensors) -> Tensor:
        return simulate_pictures(self.projector, poses.to(self.device), ctf, self._centred(len(poses)), self.pixel_size_angs)

    def _centred(self, count: int) -> Tensor:
        return torch.zeros(count, 2, device=self.device)

    def _draw_ctf(self, count: int, generator: torch.Generator) -> CtfTensors:
        return self.ctf.chosen(torch.randint(len(self.ctf), (count,), generator=generator), self.device)


def _working_grid(size: int, pixel_size_angs: float, target_angs: float) -> tuple[int, float]:
    """Side and pixel size to project at: the map's extent, at an even side that is no coarser than the target."""
    box = min(size, 2 * math.ceil(size * pixel_size_angs / max(target_angs, pixel_size_angs) / 2))
    return box, pixel_size_angs * size / box


def usual_ctfs(seed: int = 0) -> CtfTensors:
    """Settings of microscopes to draw from where there are no particles: those of `cryopares_simulate`."""
    settings = SimulationSettings(seed=seed)
    return draw_particles(settings, 64, 1.0, "none").rows(np.arange(settings.n_particles)).ctf


class SimulatedViews(Dataset):
    """An endless supply of new views with less and less signal, in portions of an epoch.

    The SNR falls geometrically from 2 at the first view to `last_snr` at the last.

    Parameters
    ----------
    views_an_epoch, n_epochs : how many views there are to be in all
    done : views that were drawn before, by a run that goes on
    """

    def __init__(self, simulator: ViewSimulator, views_an_epoch: int, n_epochs: int, last_snr: float, seed: int, done: int = 0):
        self.simulator, self.views_an_epoch, self.total = simulator, views_an_epoch, views_an_epoch * n_epochs
        self.last_snr, self.drawn = last_snr, done
        self.generator = torch.Generator().manual_seed(seed * 1_000_003 + done)

    def __len__(self) -> int:
        return self.views_an_epoch

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio of the next views."""
        return FIRST_SNR * (self.last_snr / FIRST_SNR) ** min(1.0, self.drawn / max(1, self.total))

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: list[int]) -> Batch:
        batch = self.simulator.draw(len(items), self.snr, self.generator)
        self.drawn += len(items)
        return batch
