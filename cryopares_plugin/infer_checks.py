"""What the form of an inference says before anything runs: problems, and what is allowed but hardly meant."""

import os
from typing import Any, List, NamedTuple, Optional

from cryopares_core.config.infer_arguments import BOTH_EVIDENCES, MAP_ALONE, NETWORK, SAME_HALF
from cryopares_plugin.convert import particle_problems, particle_warnings
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.whole import look_at_whole
from cryopares_plugin.fit import HALVES, ModelFiles
from cryopares_plugin.objects import CryoparesModel
from cryopares_plugin.volumes import half_map_files

REFERENCE_LABEL = "Map to search and refine against"
MASK_LABEL = "Mask for the correlation"
SAME_PIXEL = 0.01  # part of a pixel size by which two may differ


class Request(NamedTuple):
    """What is asked for.

    Attributes
    ----------
    particles : a `SetOfParticles`
    policy, one_model : which model for which particles, and the name of the only one, or nothing
    refine, reference : whether poses are refined, and the given `Volume`, or None
    reconstruct : whether there will be a map
    mask, mask_radius_angs : the given `VolumeMask` for its correlation, or a sphere's radius, or None
    evidence : what decides on the poses, as the command calls it
    consensus : whether the models of both half sets are compared
    quarter_turns : whether the network averages over the turns of each image
    """

    model: CryoparesModel
    particles: Any
    policy: str
    one_model: str
    refine: bool
    reference: Any
    reconstruct: bool
    mask: Any = None
    mask_radius_angs: Optional[float] = None
    evidence: str = BOTH_EVIDENCES
    consensus: bool = False
    quarter_turns: bool = False

    @property
    def uses_map(self) -> bool:
        """Whether a given map is looked at."""
        return self.refine or self.evidence != NETWORK


def infer_problems(request: Request, project_path: str = ".") -> List[str]:
    """All that is wrong, one sentence each with what to do."""
    files = ModelFiles(request.model, project_path)
    found = files.problems() + files.lacking(request.policy, request.one_model)
    found += particle_problems(request.particles, files.needs_ctf(), project_path, needs_poses=False)
    found += files.misfits(request.particles).problems + _map_problems(request, files)
    found += _consensus_problems(request, files)
    found += _volume_problems(request, project_path)
    return found or _half_map_problems(request, project_path)


def _volume_problems(request: Request, project_path: str) -> List[str]:
    """Volumes whose files are not there, or that do not fit the particles."""
    found: List[str] = []
    if request.uses_map and request.reference is not None:
        found += _file_problems(REFERENCE_LABEL, request.reference, half_map_files(request.reference), project_path)
    if request.reconstruct and request.mask is not None:
        found += _file_problems(MASK_LABEL, request.mask, [], project_path) or _mask_problems(request)
    return found


def _file_problems(label: str, volume: Any, more: List[str], project_path: str) -> List[str]:
    names = [name.partition(":")[0] for name in (volume.getFileName() or "", *more)]
    found = [
        f"{label}: its file '{name}' is not there. Choose another volume, or import it again."
        for name in names
        if not os.path.isfile(os.path.join(project_path, name))
    ]
    if not volume.getSamplingRate():
        found.append(f"{label}: its pixel size is not known. Import the volume again with one.")
    return found


def _mask_problems(request: Request) -> List[str]:
    particles, (side, *_) = request.particles, request.mask.getDim()
    box, pixel, own = particles.getXDim(), particles.getSamplingRate(), request.mask.getSamplingRate()
    if not box or (side == box and abs(own / pixel - 1) < SAME_PIXEL):
        return []
    return [
        f"{MASK_LABEL}: it has {side} px of {own:.4g} Å, and the particles {box} px of {pixel:.4g} Å. Make one of their box and "
        "pixel size, or leave it empty for a soft sphere."
    ]


def _half_map_problems(request: Request, project_path: str) -> List[str]:
    """What there can be no half maps for."""
    particles, radius = request.particles, request.mask_radius_angs
    if not request.reconstruct:
        return []
    half_box = (particles.getXDim() or 0) * particles.getSamplingRate() / 2
    if radius and request.mask is None and half_box and radius > half_box:
        return [f"Mask radius: {radius:g} Å is more than half of the particles' box, {half_box:.4g} Å. Give a smaller one."]
    one, two, none = look_at_whole(particles, ParticleRows(particles, project_path)).half_sizes
    if particles.isStreamOpen() or none or (one and two):
        return []
    return [
        f"All particles are of half set {1 if one else 2}, so that there can be no half maps. Choose particles of both half sets, "
        "or set 'Reconstruct a map?' to No."
    ]


def _map_problems(request: Request, files: ModelFiles) -> List[str]:
    turns = request.quarter_turns and request.evidence == MAP_ALONE
    found = ["'Average over quarter turns?' needs a network. Set it to No, or choose another evidence."] if turns else []
    needs_map = request.refine or request.evidence == MAP_ALONE
    if not needs_map or request.reference is not None or not files.cards:
        return found
    without = files.without_map(files.at_work(request.policy, request.one_model))
    if without:
        use = "refine" if request.refine else "search"
        found.append(
            f"The model of {' and '.join(without)} has kept no map of its training particles. Give a map to {use} against."
        )
    return found


def _consensus_problems(request: Request, files: ModelFiles) -> List[str]:
    """Two poses that are to be compared need two models, or two maps."""
    if not request.consensus or not files.cards:
        return []
    if request.policy != SAME_HALF or not set(HALVES) <= set(files.cards):
        return [
            f"To compare the half models, they must both be there (there is {', '.join(files.cards)}), and 'Which model' must be "
            f"{SAME_HALF}. Set it so, or set 'Compare both half models?' to No and leave 'Maximum disagreement' empty."
        ]
    if request.evidence == MAP_ALONE and request.reference is not None and len(half_map_files(request.reference)) != len(HALVES):
        return [
            f"{REFERENCE_LABEL}: it has no half maps, and poses by two maps are to be compared. Choose a volume with half maps, or "
            "set 'Compare both half models?' to No and leave 'Maximum disagreement' empty."
        ]
    return []


def infer_warnings(request: Request, project_path: str = ".") -> List[str]:
    """One sentence each."""
    files, particles = ModelFiles(request.model, project_path), request.particles
    found = particle_warnings(particles, half_sets=False, project_path=project_path, needs_poses=False)
    found += files.misfits(particles).remarks
    if particles.isAmplitudeCorrected() and (request.refine or request.reconstruct):
        found.append(
            "The pictures' amplitudes are CTF-corrected. Refinement would correct them once more, and the map counts them as they "
            "are: extract the particles again without correction."
        )
    elif particles.isAmplitudeCorrected() and files.needs_ctf():
        found.append(
            "The pictures' amplitudes are CTF-corrected, and the model corrects them once more. If it was not trained on pictures "
            "like these, extract the particles again without correction."
        )
    independent = request.policy == SAME_HALF and set(HALVES) <= set(files.cards)
    if request.reconstruct and not independent:
        found.append(
            "The same models find the poses of both half sets, so that the half maps are not independent and their resolution is "
            "too good. For an honest one give models of both half sets, and let each find the poses of its own."
        )
    return found
