"""`cryopares_simulate`: particles with known poses, made from a map."""

import logging
import sys
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

from cryopares_core.commands.shell import run
from cryopares_core.config.cli import build_parser, parse_args
from cryopares_core.config.parameters import param

logger = logging.getLogger(__name__)

DESCRIPTION = "Simulate particles from a map: poses, CTF, shifts and noise, as a RELION STAR file and stacks."
PHANTOM_BOX_PX, PHANTOM_SAMPLING_ANGS = 64, 5.0


@dataclass
class SimulateArguments:
    """What to simulate and where to write it."""

    out_dir: str = param("", "Folder for particles.star, its stacks, the map and simulation.json.", required=True)
    map_fname: Optional[str] = param(None, "Map (MRC) of the particle; cubic.")
    phantom: bool = param(False, "Instead of a map: the project's own protein-like, asymmetric phantom.")
    n_particles: int = param(2000, "How many particles.", low=1, high=10_000_000)
    snr: float = param(1.0, "Signal-to-noise ratio: variances inside the particle's disc.", above=0, high=1e6)
    symmetry: str = param("C1", "Point group of the map, noted in simulation.json; poses are drawn on the whole sphere.")
    sampling_rate: Optional[float] = param(
        None, "Pixel size of the map; null takes its header's (phantom: 5).", unit="Å/px", above=0, high=100
    )
    image_size_px: Optional[int] = param(
        None,
        "Side of the pictures: the map is resampled to it, with a pixel size that keeps its extent. Null keeps the map's "
        "(phantom: 64, at the pixel size given).",
        unit="px",
        low=16,
        high=1024,
    )
    seed: int = param(0, "Seed of all that is drawn at random.", low=0, high=2**31 - 1)
    sigma_shift_px: float = param(2.0, "Standard deviation of the shifts.", unit="px", low=0, high=1000)
    max_shift_px: float = param(5.0, "Largest shift along an axis.", unit="px", low=0, high=1000)
    defocus_min: float = param(8000.0, "Smallest defocus.", unit="Å", low=-100_000, high=100_000)
    defocus_max: float = param(25_000.0, "Largest defocus.", unit="Å", low=-100_000, high=100_000)
    astigmatism: float = param(400.0, "Largest difference between the two defoci.", unit="Å", low=0, high=50_000)
    n_optics_groups: int = param(2, "Optics groups: microscopes of 300 and 200 kV in turn.", low=1, high=100)
    mask_radius_angs: Optional[float] = param(
        None, "Radius of the disc in which the SNR is measured; null means 0.42 of the box.", unit="Å", above=0
    )
    stack_size: int = param(1000, "Pictures in a stack.", low=1, high=1_000_000)
    dtype: str = param("float32", "Number type of the stacks.", choices=("float32", "float16"))
    overwrite: bool = param(False, "Replace an earlier simulation in the folder.")

    def problems(self) -> List[str]:
        """Rules that tie several options together."""
        found = []
        if bool(self.map_fname) == self.phantom:
            found.append("Give either --map_fname MAP.mrc or --phantom.")
        if self.defocus_min > self.defocus_max:
            found.append(f"--defocus_min={self.defocus_min:g} is above --defocus_max={self.defocus_max:g}.")
        return found


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = build_parser(SimulateArguments, "cryopares_simulate", DESCRIPTION, with_config=False)
    arguments = parse_args(parser, argv).arguments
    from cryopares_core.geometry.symmetry import point_group
    from cryopares_core.progress import Countdown
    from cryopares_core.volumes.simulate import simulate_particles

    about = {"map": arguments.map_fname or "phantom", "symmetry": point_group(arguments.symmetry).name}
    volume, pixel_size = _map(arguments)
    logger.info("Simulating %d particles of %d px at %.4g Å/px", arguments.n_particles, len(volume), pixel_size)
    star = simulate_particles(
        volume,
        pixel_size,
        arguments.out_dir,
        _settings(arguments),
        overwrite=arguments.overwrite,
        progress=Countdown("Simulated", "particles"),
        about=about,
    )
    logger.info("Wrote %s", star)


def _settings(arguments: SimulateArguments) -> Any:
    from cryopares_core.volumes.particle_rows import SimulationSettings

    same = ("n_particles", "snr", "seed", "sigma_shift_px", "max_shift_px", "n_optics_groups", "mask_radius_angs")
    return SimulationSettings(
        **{name: getattr(arguments, name) for name in (*same, "stack_size", "dtype")},
        defocus_min_angs=arguments.defocus_min,
        defocus_max_angs=arguments.defocus_max,
        astigmatism_angs=arguments.astigmatism,
    )


def _map(arguments: SimulateArguments) -> Tuple[Any, float]:
    """The map on the pictures' grid, and its pixel size in Å."""
    from cryopares_core.volumes.maps import read_map, resample_map
    from cryopares_core.volumes.phantom import phantom_map

    if arguments.phantom:
        pixel_size = arguments.sampling_rate or PHANTOM_SAMPLING_ANGS
        return phantom_map(arguments.image_size_px or PHANTOM_BOX_PX, pixel_size), pixel_size
    volume, pixel_size = read_map(str(arguments.map_fname), arguments.sampling_rate)
    size = arguments.image_size_px or len(volume)
    return resample_map(volume, size), pixel_size * len(volume) / size


if __name__ == "__main__":
    sys.exit(main())
