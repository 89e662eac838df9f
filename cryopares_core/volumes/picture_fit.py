"""How well pictures agree with a map at the poses that were found for them: what a network's own confidence doesn't know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask
from cryopares_core.volumes.expected import prepared_transfer
from cryopares_core.volumes.maps import read_map, resample_map
from cryopares_core.volumes.project import Projector

LARGEST_PX = 64  # finer detail is noise in single pictures, and costs the most
SMALLEST_NORM = 1e-6
MAP = "starting_map.mrc"  # at the pixel size of the network's images
FINE_MAP = "training_map.mrc"  # at that of the particles' own


class PictureFit:
    """Compares prepared pictures with a map's projections.

    Parameters
    ----------
    volume : `(s, s, s)` `[z, y, x]`, on the grid of the prepared pictures
    settings : of the preparation, with sampling and size as numbers
    device : where the work is done
    """

    def __init__(self, volume: Tensor, settings: PreprocessSettings, device: torch.device | str = "cpu"):
        whole, sampling = len(volume), float(settings.sampling_rate_angs or 0)
        self.size = whole if whole <= LARGEST_PX or whole % 2 else LARGEST_PX
        self.settings = replace(settings, sampling_rate_angs=sampling * whole / self.size, image_size_px=self.size)
        small = torch.from_numpy(resample_map(volume.cpu().numpy(), self.size)).to(device)
        self.projector = Projector(small)
        mask = network_mask(self.size, float(self.settings.sampling_rate_angs or 0), settings.mask_radius_angs)
        self.mask = mask.to(device)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, ctf: CtfTensors, poses: Tensor) -> Tensor:
        """The correlation coefficient, within the mask, of each picture with what the map shows at each pose.

        Parameters
        ----------
        pictures : `(b, c, s, s)` prepared; of several channels the last is looked at
        ctf : theirs, on the device
        poses : `(b, k, 3, 3)`

        Returns `(b, k)`.
        """
        seen = self._small(pictures[:, -1].float()) * self.mask
        transfer = prepared_transfer(self.settings, ctf, torch.arange(len(seen), device=seen.device))[:, -1:]
        slices = self.projector.project_rfft(poses.flatten(0, 1).float()).unflatten(0, poses.shape[:2])
        expected = torch.fft.irfft2(slices * transfer, s=(self.size,) * 2) * self.mask
        product = (expected * seen[:, None]).sum(dim=(-2, -1))
        norms = expected.square().sum(dim=(-2, -1)) * seen.square().sum(dim=(-2, -1))[:, None]
        return product / norms.sqrt().clamp(min=SMALLEST_NORM)

    def _small(self, pictures: Tensor) -> Tensor:
        """`(b, n, n)` to `(b, size, size)` by Fourier cropping: coarser pixels, of the same values, about the same centre."""
        n, m = pictures.shape[-1], self.size
        if n == m:
            return pictures
        spectra = torch.fft.rfft2(pictures)
        rows = torch.cat((spectra[:, : m // 2], spectra[:, -(m // 2) :]), dim=1)
        return torch.fft.irfft2(rows[:, :, : m // 2 + 1], s=(m, m)) * (m / n) ** 2


def model_map(folder: Path, pixel_size_angs: float) -> tuple[np.ndarray, float] | None:
    """The finest map of a model's training particles in its folder, with its pixel size; None where there is none.

    Parameters
    ----------
    pixel_size_angs : of the network's images
    """
    if (folder / FINE_MAP).is_file():
        return read_map(folder / FINE_MAP)
    return read_map(folder / MAP, pixel_size_angs) if (folder / MAP).is_file() else None


def fit_to_own_map(folder: Path, card: ModelCard, device: torch.device) -> PictureFit | None:
    """Compares with the map of a model's training particles, in the model's folder; None where there is none on its grid."""
    if not (folder / MAP).is_file():
        return None
    volume, _ = read_map(folder / MAP, card.sampling_rate_angs)
    return PictureFit(torch.from_numpy(volume), card.preparation, device) if len(volume) == card.image_size_px else None
