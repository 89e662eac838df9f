"""What a particle looks like on average: to see its size, not its detail."""

import os
from typing import Any, NamedTuple

import numpy as np
from pwem.emlib.image import ImageHandler

from cryopares_core.errors import UserError
from cryopares_plugin.convert.columns import MATRIX
from cryopares_plugin.convert.poses import angles_and_shifts, read_matrices
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.stacks import file_of, read_picture

PICTURES, AMONG = 200, 5000
BORDER = 0.45  # of the box: background begins there
EDGE_SHARE = 0.05  # of the average's height: the particle's rim
RESOLUTION_ANGS = 20.0


class Average(NamedTuple):
    """A mean picture `(n, n)`, its pixel size in Å, of how many pictures it is, and how many there are in all."""

    picture: np.ndarray
    pixel_size_angs: float
    n_pictures: int
    n_particles: int

    @property
    def box_px(self) -> int:
        return len(self.picture)


def average_of(protocol: Any, project_path: str = ".") -> Average:
    """The average of a protocol's input: particles, or views of its map.

    Raises
    ------
    UserError : no input was chosen, or it cannot be read.
    """
    particles, volume = (_input(protocol, name) for name in ("inputParticles", "inputVolume"))
    if particles is not None:
        return average_particles(particles, project_path)
    if volume is not None:
        return average_views(volume)
    raise UserError("Choose the particles or the map first: the proposal is made from them.")


def average_particles(particles: Any, project_path: str = ".") -> Average:
    """The mean of up to 200 of the first 5,000 particles, each centred by its known shift."""
    block = ParticleRows(particles, project_path).head(["_index", "_filename", MATRIX], AMONG)
    if not block["_index"]:
        raise UserError("The set has no particles. Choose another one.")
    chosen = np.unique(np.linspace(0, len(block["_index"]) - 1, PICTURES).astype(int))
    total: Any = 0.0
    count = 0
    for place, shift in zip(chosen, _shifts(block, chosen)):
        picture = read_picture(os.path.join(project_path, file_of(block["_filename"][place])), block["_index"][place])
        if np.isfinite(picture).all() and picture.std() > 0:
            total, count = total + np.roll(normalised(picture), shift, axis=(0, 1)), count + 1
    if not count:
        raise UserError("None of the particles looked at has a picture that is not flat. Choose another set.")
    return Average(np.asarray(total) / count, particles.getSamplingRate(), count, particles.getSize())


def average_views(volume: Any) -> Average:
    """The mean of a map's views along its three axes."""
    try:
        voxels = np.asarray(ImageHandler().read(volume).getData(), dtype=np.float32).squeeze()
    except Exception as error:  # Xmipp's library raises its own kinds
        raise UserError(f"{volume.getFileName()}: the map cannot be read ({error}).") from error
    if voxels.ndim != 3 or len(set(voxels.shape)) != 1:
        raise UserError(f"The map must be a cube, but it is {' x '.join(map(str, voxels.shape))} voxels: pad or crop it.")
    return Average(normalised(np.mean([voxels.mean(axis=axis) for axis in range(3)], axis=0)), volume.getSamplingRate(), 3, 0)


def guess_diameter_angs(average: Average) -> float:
    """Twice the radius where the mean over rings falls to a twentieth of its height; no more than the box."""
    profile = _ring_means(average.picture)
    level = profile[int(BORDER * average.box_px) :].mean() if average.box_px > 4 else 0.0
    height = profile[: max(2, len(profile) // 2)].max() - level
    inside = np.flatnonzero(profile - level > EDGE_SHARE * height)
    radius_px = inside[-1] + 1 if len(inside) and height > 0 else average.box_px / 3
    return float(min(2 * radius_px, average.box_px) * average.pixel_size_angs)


def low_passed(picture: np.ndarray, pixel_size_angs: float, resolution_angs: float = RESOLUTION_ANGS) -> np.ndarray:
    """A picture `(n, n)` without what is finer than a resolution, with a soft edge."""
    frequency = np.fft.fftfreq(len(picture), pixel_size_angs)
    radius = np.hypot(frequency[:, None], frequency[None, :]) * resolution_angs
    return np.fft.ifft2(np.fft.fft2(picture) * np.exp(-0.5 * radius**4)).real


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture as `(n, n)` bytes, its extreme half per cent cut."""
    low, high = np.percentile(picture, (0.5, 99.5))
    return (np.clip((picture - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


def normalised(picture: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 outside the disc of the particle; deviation of the whole picture where that is flat."""
    outside = _radii(len(picture)) > BORDER * len(picture)
    return (picture - picture[outside].mean()) / (picture[outside].std() or picture.std() or 1.0)


def _shifts(block: Any, chosen: np.ndarray) -> Any:
    """Rows and columns by which each chosen particle is moved to the centre; none for those without a pose."""
    _, origins_px = angles_and_shifts(read_matrices([block[MATRIX][place] for place in chosen]))
    return [tuple(int(step) for step in np.nan_to_num(np.rint(origin[1::-1]))) for origin in origins_px]


def _ring_means(picture: np.ndarray) -> np.ndarray:
    """Means over rings one pixel wide, `(n // 2,)`, from the centre outwards."""
    rings = _radii(len(picture)).astype(int).ravel()
    return (np.bincount(rings, picture.ravel()) / np.bincount(rings))[: len(picture) // 2]


def _radii(size: int) -> np.ndarray:
    y, x = np.indices((size, size)) - size // 2
    return np.hypot(x, y)


def _input(protocol: Any, name: str) -> Any:
    pointer = getattr(protocol, name, None)
    return None if pointer is None else pointer.get()
