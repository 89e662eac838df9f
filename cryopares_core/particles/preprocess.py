"""From raw pictures to what the network sees, in batches on a device.

One transform, the CTF at the original sampling, the known shift, and one synthesis at the wanted pixels. The synthesis
sums the picture's Fourier series at any positions (two small matrix products), so that the sampling is exactly the
target and the centre exactly pixel `n // 2`, whatever the pixel sizes: no padding to a box whose ratio happens to fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.config.model_fit import MASK_EDGE_PX
from cryopares_core.particles.ctf import CtfTensors, ctf_2d

CTF_MODES = ("phase_flip", "none", "concat_phase_flip", "ctf_multiply")
SMALLEST_DEVIATION = 1e-12


@dataclass(frozen=True)
class PreprocessSettings:
    """How pictures are prepared. None stands for: the file's sampling; the whole rescaled picture; half the box."""

    sampling_rate_angs: float | None = None
    image_size_px: int | None = None
    ctf_mode: str = "phase_flip"
    mask_radius_angs: float | None = None

    def __post_init__(self) -> None:
        if self.ctf_mode not in CTF_MODES:
            raise ValueError(f"ctf_mode must be one of {CTF_MODES}, not {self.ctf_mode!r}")

    @property
    def channels(self) -> int:
        """Channels of a prepared picture: as taken and phase-flipped when both are wanted, else one."""
        return 2 if self.ctf_mode == "concat_phase_flip" else 1

    def transfer(self, ctf: CtfTensors, planes: Tensor) -> Tensor:
        """What is left of the CTFs, `planes` `(b, n, m)`, in the channels of prepared pictures: `(b, c, n, m)`."""
        came = ctf.in_pictures(planes)
        return torch.stack([came if factor is None else came * factor for factor in self.corrections(ctf, planes)], dim=1)

    def corrections(self, ctf: CtfTensors, planes: Tensor) -> list[Tensor | None]:
        """What the transforms of pictures, as they came, are multiplied by in each channel, like `planes`; None for nothing.

        Whatever was done to pictures before, their phases end as the mode has them, and nothing is done twice.
        """
        if self.ctf_mode == "none":
            return [None]
        if self.ctf_mode == "ctf_multiply":
            return [ctf.left_to_multiply(planes)]
        signs = torch.where(planes < 0, -1.0, 1.0)
        flipping = ctf.where(signs, 1.0, 1.0)
        if self.ctf_mode == "phase_flip":
            return [flipping]
        return [None if ctf.corrected is None else ctf.where(torch.ones_like(signs), signs, signs), flipping]

    def target_sampling(self, pixel_size_angs: float) -> float:
        """Pixel size of the prepared pictures, Å."""
        return self.sampling_rate_angs or pixel_size_angs

    def target_size(self, box_px: int, pixel_size_angs: float) -> int:
        """Side of the prepared pictures, px; an even number when it is not prescribed."""
        extent_px = box_px * pixel_size_angs / self.target_sampling(pixel_size_angs)
        whole = box_px if self.sampling_rate_angs is None else 2 * math.floor(extent_px / 2 + 1e-6)
        return self.image_size_px or whole


class Preprocessor:
    """Prepares batches of pictures of any box and sampling, all alike; keeps the tables of the geometry it saw last."""

    def __init__(self, settings: PreprocessSettings):
        self.settings = settings
        self._synthesis: _Synthesis | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor, ctf: CtfTensors, pixel_size_angs: float, shifts_angs: Tensor) -> Tensor:
        """Centred, CTF-corrected, rescaled and normalised pictures, not masked: `(b, c, s, s)` float32.

        Parameters
        ----------
        images : `(b, n, n)` real, on the device that does the work; finite.
        ctf : their CTF parameters, on the same device.
        pixel_size_angs : their pixel size, one for the batch, Å.
        shifts_angs : `(b, 2)` x, y: `rlnOriginXAngst, rlnOriginYAngst`, by which a particle is moved to be centred.
        """
        synthesis = self._synthesis_for(images, pixel_size_angs)
        spectra = synthesis.crop(torch.fft.rfft2(_without_border_level(images.float())))
        spectra = spectra * synthesis.shift(shifts_angs / pixel_size_angs)
        channels = self._corrected(spectra, ctf, synthesis)
        pictures = torch.stack([synthesis(channel) for channel in channels], dim=1)
        return normalise_background(pictures, synthesis.background) * synthesis.known

    def _corrected(self, spectra: Tensor, ctf: CtfTensors, synthesis: _Synthesis) -> list[Tensor]:
        if self.settings.ctf_mode == "none":
            return [spectra]
        planes = ctf_2d(ctf, synthesis.cropped_pixel_angs, synthesis.cropped)
        return [spectra if factor is None else spectra * factor for factor in self.settings.corrections(ctf, planes)]

    def _synthesis_for(self, images: Tensor, pixel_size_angs: float) -> _Synthesis:
        key = (images.shape[-1], float(pixel_size_angs), images.device)
        if self._synthesis is None or self._synthesis.key != key:
            self._synthesis = _Synthesis(*key, self.settings)
        return self._synthesis


class _Synthesis:
    """The Fourier series of `n` px pictures, cut to the target's Nyquist frequency, summed at the target's pixels."""

    def __init__(self, box: int, pixel_size_angs: float, device: torch.device, settings: PreprocessSettings):
        self.key = (box, pixel_size_angs, device)
        self.box = box
        target = settings.target_sampling(pixel_size_angs)
        self.size = settings.target_size(box, pixel_size_angs)
        self.step = target / pixel_size_angs
        nyquist = box / 2 / max(self.step, 1.0)
        # The smallest even transform with all wanted frequencies: its CTF is that of a coarser picture of equal extent.
        self.cropped = min(box, 2 * math.ceil(nyquist - 1e-6))
        self.cropped_pixel_angs = pixel_size_angs * box / self.cropped
        self._frequencies(nyquist, device)
        self._pixels(settings.mask_radius_angs, target, device)

    def _frequencies(self, nyquist: float, device: torch.device) -> None:
        """Integer frequencies of the cropped transform, and the matrices that sum its rows and columns."""
        m, n, whole = self.cropped, self.box, self.step == 1.0
        ky = torch.fft.fftfreq(m, 1 / m, dtype=torch.float64, device=device).round()
        kx = torch.arange(m // 2 + 1, dtype=torch.float64, device=device)
        self._fy, self._fx = ky / n, kx / n
        # Between pixels the Nyquist frequency of an even box is undefined (it has no partner of the other sign).
        keep_y, keep_x = (torch.ones_like(k) if whole else (k.abs() < nyquist - 1e-6).double() for k in (ky, kx))
        # A real picture's transform stores half of its columns: all but 0 and Nyquist stand for two.
        twice = torch.where((kx == 0) | (2 * kx == n), 1.0, 2.0)
        place = n // 2 + self._offsets(device)
        self._rows = torch.polar(keep_y.expand(self.size, -1), 2 * math.pi * place[:, None] * self._fy).to(torch.complex64) / n
        columns = torch.polar((keep_x * twice).expand(self.size, -1), 2 * math.pi * place[:, None] * self._fx) / n
        # Only the real part of the product is wanted: Re(g c) = Re g Re c - Im g Im c.
        self._columns = torch.cat((columns.real, -columns.imag), dim=1).float()

    def _offsets(self, device: torch.device) -> Tensor:
        """Where the target's pixels lie along an axis, in raw pixels from the centre."""
        return (torch.arange(self.size, dtype=torch.float64, device=device) - self.size // 2) * self.step

    def _pixels(self, mask_radius_angs: float | None, target_angs: float, device: torch.device) -> None:
        """Which target pixels lie inside the raw picture (`known`), and which of those show background only."""
        offset = self._offsets(device)
        # Half a raw pixel of room on both sides: a picture covers n pixels, not n - 1 distances.
        within = (offset >= -(self.box // 2) - 0.5) & (offset < self.box - self.box // 2 - 0.5)
        self.known = (within[:, None] & within).float()
        half_side = min(self.size, self.box / self.step) / 2
        radius = min(half_side, (mask_radius_angs or math.inf) / target_angs)
        self.background = self.known * (_distances(self.size, device) > radius)

    def crop(self, spectra: Tensor) -> Tensor:
        """`(b, n, n // 2 + 1)` to `(b, m, m // 2 + 1)`: the lowest frequencies."""
        positive, negative = (self.cropped + 1) // 2, self.cropped // 2
        if self.cropped == self.box:
            return spectra
        rows = torch.cat((spectra[:, :positive], spectra[:, -negative:]), dim=1)
        return rows[:, :, : self.cropped // 2 + 1]

    def shift(self, shifts_px: Tensor) -> Tensor:
        """Factors that move pictures by `(b, 2)` x, y raw pixels."""
        phase = shifts_px[:, 1, None, None] * self._fy[:, None] + shifts_px[:, 0, None, None] * self._fx
        return torch.polar(torch.ones_like(phase), -2 * math.pi * phase).to(torch.complex64)

    def __call__(self, spectra: Tensor) -> Tensor:
        """`(b, m, m // 2 + 1)` to pictures `(b, s, s)`."""
        partial = self._rows @ spectra
        return torch.cat((partial.real, partial.imag), dim=-1) @ self._columns.T


def _without_border_level(images: Tensor) -> Tensor:
    """Large offsets of raw counts cost precision in the transforms; the background is set to 0 later anyway."""
    return images - images[:, :1].mean(dim=(1, 2), keepdim=True)


def normalise_background(pictures: Tensor, background: Tensor) -> Tensor:
    """Pictures `(..., s, s)` with mean 0 and standard deviation 1 over the pixels where `background` `(s, s)` is 1."""
    count = background.sum()
    mean = (pictures * background).sum(dim=(-2, -1), keepdim=True) / count
    centred = pictures - mean
    variance = (centred.square() * background).sum(dim=(-2, -1), keepdim=True) / count
    return centred / variance.sqrt().clamp(min=SMALLEST_DEVIATION)


def circular_mask(size_px: int, radius_px: float, soft_edge_px: float = 0.0, device: torch.device | str = "cpu") -> Tensor:
    """A disc about pixel `size_px // 2`, `(s, s)` float32: 1 up to `radius_px`, a cosine to 0 over the soft edge."""
    beyond = _distances(size_px, device) - radius_px
    if soft_edge_px <= 0:
        return (beyond <= 0).float()
    return 0.5 * (1 + torch.cos(math.pi * (beyond / soft_edge_px).clamp(0, 1)))


def network_mask(size_px: int, sampling_rate_angs: float, radius_angs: float | None) -> Tensor:
    """The mask that the network's pictures get, `(s, s)`: without a radius, the largest disc whose soft edge fits."""
    radius_px = size_px / 2 - MASK_EDGE_PX if radius_angs is None else radius_angs / sampling_rate_angs
    return circular_mask(size_px, radius_px, MASK_EDGE_PX)


def _distances(size: int, device: torch.device | str) -> Tensor:
    axis = torch.arange(size, device=device) - size // 2
    return torch.hypot(axis[:, None].float(), axis[None].float())
