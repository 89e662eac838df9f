"""The settings of the pictures' preparation, with what the user left open filled in."""

from __future__ import annotations

import logging

from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.particles.prepare import complete_settings
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.table import ParticleTable

logger = logging.getLogger(__name__)
SMALLEST_PICTURE_PX = 16


def settings_for_particles(config: Config, table: ParticleTable) -> PreprocessSettings:
    """What is left open is taken from the particles. Raises UserError where pictures would be too small."""
    return _checked(complete_settings(table, _asked(config)))


def settings_for_map(config: Config, size_px: int, pixel_size_angs: float) -> PreprocessSettings:
    """What is left open is taken from a map of some side and pixel size. Raises UserError where pictures would be too small."""
    asked = _asked(config)
    return _checked(
        PreprocessSettings(
            sampling_rate_angs=asked.target_sampling(pixel_size_angs),
            image_size_px=asked.target_size(size_px, pixel_size_angs),
            ctf_mode=asked.ctf_mode,
            mask_radius_angs=asked.mask_radius_angs,
        )
    )


def _asked(config: Config) -> PreprocessSettings:
    wanted = config.datamanager.particlesDataset
    return PreprocessSettings(
        sampling_rate_angs=wanted.sampling_rate_angs_for_nnet,
        image_size_px=wanted.image_size_px_for_nnet,
        ctf_mode=wanted.ctf_correction,
        mask_radius_angs=wanted.mask_radius_angs,
    )


def _checked(settings: PreprocessSettings) -> PreprocessSettings:
    sampling, size, radius = settings.sampling_rate_angs or 0, settings.image_size_px or 0, settings.mask_radius_angs
    if size < SMALLEST_PICTURE_PX:
        raise UserError(
            f"The network's pictures would have {size} px, fewer than {SMALLEST_PICTURE_PX}: lower "
            "datamanager.particlesDataset.sampling_rate_angs_for_nnet, or raise image_size_px_for_nnet."
        )
    if radius is not None and radius > size * sampling / 2:
        logger.warning(
            "The mask's radius of %g Å reaches beyond the picture of %d px at %.4g Å/px (half of it is %.4g Å): nothing is masked "
            "at its sides. Lower mask_radius_angs, or raise image_size_px_for_nnet.",
            *(radius, size, sampling, size * sampling / 2),
        )
    return settings
