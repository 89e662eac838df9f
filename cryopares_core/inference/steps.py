"""What the first process makes of the poses once all are found."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from cryopares_core.config.infer_arguments import InferArguments
from cryopares_core.inference.improve import take_refined
from cryopares_core.inference.job import Job
from cryopares_core.inference.own_state import iterate
from cryopares_core.inference.results import Results, write_particles, write_views
from cryopares_core.plots.inference import RECONSTRUCTION, VIEWS
from cryopares_core.progress import Countdown
from cryopares_core.volumes.half_map_files import remove_half_maps, write_half_maps
from cryopares_core.volumes.half_maps import reconstruct_half_maps
from cryopares_core.volumes.sharpen import sharpen

logger = logging.getLogger(__name__)
Step = Callable[[Job, Results], Results]


def steps_of(arguments: InferArguments) -> list[Step]:
    """The steps in order; each gives the results on."""
    first: list[Step] = [take_refined] if arguments.refine else []
    first += [iterate] if arguments.iterations else []
    last: list[Step] = [reconstruct] if arguments.reconstruct and not arguments.iterations else []
    return [*first, write, *last]


def write(job: Job, results: Results) -> Results:
    """The STAR files, and numbers by view direction."""
    with job.phases("writing"):
        write_particles(job.results_dir, results, job.selection)
        write_views(job.results_dir / VIEWS, results, job.selection)
    return results


def reconstruct(job: Job, results: Results) -> Results:
    """Half maps of the particles kept, and the map of both, in a folder of their own."""
    kept = results.posed_table().subset(np.flatnonzero(results.kept(job.selection)))
    empty = sorted({1, 2} - set(kept.half_set.tolist()))
    if empty:
        remove_half_maps(job.results_dir / RECONSTRUCTION)  # those of an earlier threshold
        logger.warning("There is no map: no particles of half set %s are kept", " and ".join(map(str, empty)))
        return results
    progress = Countdown("Added to the map", "pictures")
    with job.phases("reconstruction"):
        half_maps = reconstruct_half_maps(kept, job.symmetry, job.device, progress=progress)
        path = write_half_maps(job.results_dir / RECONSTRUCTION, half_maps, sharpened=sharpen(half_maps))
    logger.info("The map of %s particles, %s, has a resolution of %.3g Å", f"{len(kept):,}", path, half_maps.resolution_angs)
    return results
