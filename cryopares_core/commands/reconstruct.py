"""`cryopares_reconstruct`: half maps, their Fourier shell correlation and the whole map of particles with poses."""

import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Optional, Sequence

from cryopares_core.commands.shell import run
from cryopares_core.config.cli import build_parser, parse_args
from cryopares_core.config.reconstruct_arguments import ReconstructArguments
from cryopares_core.errors import UserError
from cryopares_core.progress import Countdown, size_text

logger = logging.getLogger(__name__)
DESCRIPTION = "Reconstruct two half maps and the whole map from particles with poses, with their Fourier shell correlation."
BYTES_OF_MAPS = 20  # for each voxel: two half maps, their sum, the mask and the sharpened map
SHOWN = 5


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = build_parser(ReconstructArguments, "cryopares_reconstruct", DESCRIPTION, with_config=False)
    arguments = parse_args(parser, argv).arguments
    from cryopares_core.geometry.symmetry import point_group
    from cryopares_core.machine import Place, device_of
    from cryopares_core.volumes.half_map_files import write_half_maps
    from cryopares_core.volumes.half_maps import reconstruct_half_maps
    from cryopares_core.volumes.sharpen import sharpen

    started = time.perf_counter()
    group = point_group(arguments.symmetry)
    table = _table(arguments)
    _check_folder(arguments.out_dir, int(table.image_size_px.max()))
    logger.info("Reconstructing from %s particles of %d px under %s", f"{len(table):,}", table.image_size_px[0], group.name)
    half_maps = reconstruct_half_maps(
        table,
        group.name,
        device_of(Place(), arguments.accelerator, arguments.n_threads),
        _weights(table, arguments),
        _mask(table, arguments),
        arguments.resolution_limit_angs,
        arguments.ctf_correction,
        Countdown("Added", "pictures"),
    )
    about = {"command": sys.argv, "asked": vars(arguments), "seconds": round(time.perf_counter() - started, 1)}
    sharpened = sharpen(half_maps, arguments.wanted_b_factor())
    path = write_half_maps(arguments.out_dir, half_maps, about, sharpened)
    logger.info("Mask: %s", half_maps.mask_note)
    logger.info("Sharpening: %s", sharpened.note)
    logger.info(
        "Resolution (0.143): %.2f Å with the mask, %.2f Å without. Wrote %s",
        half_maps.resolution_angs,
        half_maps.fsc.unmasked_resolution_angs,
        path,
    )


def _table(arguments: ReconstructArguments) -> Any:
    from cryopares_core.particles.columns import CTF_REMEDY
    from cryopares_core.particles.star import read_particles

    words = {
        CTF_REMEDY: "Estimate the CTF, or reconstruct without it: --ctf_correction False.",
        ", or use --split_halfs False.": ".",
    }
    try:
        table, remarks = read_particles(arguments.particles_star_fname, arguments.particles_dir, arguments.ctf_correction)
    except UserError as error:
        problems = error.problems
        for theirs, ours in words.items():
            problems = [problem.replace(theirs, ours) for problem in problems]
        raise UserError(problems) from None
    for remark in remarks:
        logger.warning("%s", remark)
    return table


def _weights(table: Any, arguments: ReconstructArguments) -> Any:
    """What the wanted column says, `(n,)`, or None."""
    import numpy as np

    from cryopares_core.config.names import did_you_mean
    from cryopares_core.particles.text import to_floats

    name = arguments.weights_column
    if name is None:
        return None
    if name not in table.particles:
        hint = did_you_mean(name, list(table.particles.columns))
        raise UserError(f"{arguments.particles_star_fname}: no column {name}, which --weights_column asks for.{hint}")
    weights = to_floats(table.particles[name])
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    problems = [
        f"{arguments.particles_star_fname}, row {row + 1}, {name} = {table.particles[name].iloc[row]!r}: a weight is a number "
        "of at least 0. Mend the value, or take the row out."
        for row in bad[:SHOWN]
    ]
    if len(bad) > SHOWN:
        problems.append(f"{arguments.particles_star_fname}: the same in {len(bad) - SHOWN:,} more rows.")
    if problems:
        raise UserError(problems)
    return weights


def _mask(table: Any, arguments: ReconstructArguments) -> Any:
    from cryopares_core.volumes.masks import read_mask, soft_sphere

    size, pixel_size = int(table.image_size_px[0]), float(table.pixel_size_angs[0])
    if arguments.mask_fname is not None:
        return read_mask(arguments.mask_fname, size, pixel_size)
    if arguments.mask_radius_angs is None:
        return None
    radius = arguments.mask_radius_angs / pixel_size
    if radius > size / 2:
        raise UserError(
            f"--mask_radius_angs={arguments.mask_radius_angs:g}: the box of {size} px at {pixel_size:.4g} Å holds a radius of "
            f"{size * pixel_size / 2:.4g} Å at the most."
        )
    return soft_sphere(size, radius)


def _check_folder(out_dir: str, size: int) -> None:
    """Refuse, before the work, what cannot be written to or holds the maps of others."""
    folder = Path(out_dir).resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(str(existing), os.W_OK):
        raise UserError(f"--out_dir={out_dir}: {existing} is not a folder that you may write to.")
    from cryopares_core.volumes.half_map_files import foreign_maps

    foreign = foreign_maps(folder)
    if foreign:
        raise UserError(
            f"--out_dir={out_dir}: {', '.join(foreign)} there is of something else, and would be overwritten. Give another folder."
        )
    needed, free = BYTES_OF_MAPS * size**3, shutil.disk_usage(str(existing)).free
    if needed > free:
        raise UserError(f"--out_dir={out_dir}: the maps need {size_text(needed)} and {size_text(free)} are free there.")


if __name__ == "__main__":
    sys.exit(main())
