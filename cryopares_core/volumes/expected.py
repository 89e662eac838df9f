"""What a map says that prepared pictures show: its projection times what preparation leaves of the CTF."""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.particles.ctf import CtfTensors, ctf_2d
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.volumes.project import Projector


class ExpectedPictures:
    """Pictures without noise of some particles' CTFs at any poses, on the grid of prepared pictures.

    Parameters
    ----------
    volume : `(s, s, s)` `[z, y, x]`, with the pixel size and the side of the prepared pictures
    settings : of the preparation, with sampling and size as numbers
    ctf : of all particles of a run, `(n,)`, on the volume's device
    """

    def __init__(self, volume: Tensor, settings: PreprocessSettings, ctf: CtfTensors):
        self.projector, self.settings, self.ctf = Projector(volume), settings, ctf

    def __call__(self, ids: Tensor, poses: Tensor) -> Tensor:
        """Particles `ids` `(b,)` at pose matrices `(b, 3, 3)`: `(b, c, s, s)` float32."""
        spectra = self.projector.project_rfft(poses)[:, None] * self.transfer(ids)
        return torch.fft.irfft2(spectra, s=(self.projector.size,) * 2)

    def transfer(self, ids: Tensor) -> Tensor:
        """What preparation leaves of their CTFs, in rfft layout, `(b, c, s, s // 2 + 1)`."""
        return prepared_transfer(self.settings, self.ctf, ids)


def prepared_transfer(settings: PreprocessSettings, ctf: CtfTensors, ids: Tensor) -> Tensor:
    """What a map's slices are multiplied by in the prepared pictures of particles `ids`, `(b, c, s, s // 2 + 1)`."""
    chosen = ctf.chosen(ids, ids.device)
    planes = ctf_2d(chosen, float(settings.sampling_rate_angs or 0), int(settings.image_size_px or 0))
    return settings.transfer(chosen, planes)
