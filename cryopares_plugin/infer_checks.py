"""What the form of an inference says before anything runs: problems, and what is allowed but hardly meant."""

from typing import Any, List, NamedTuple

from cryopares_core.config.infer_arguments import SAME_HALF
from cryopares_plugin.convert import particle_problems, particle_warnings
from cryopares_plugin.fit import HALVES, ModelFiles
from cryopares_plugin.objects import CryoparesModel


class Request(NamedTuple):
    """What is asked for.

    Attributes
    ----------
    particles : a `SetOfParticles`
    policy, one_model : which model for which particles, and the name of the only one, or nothing
    refine, reference : whether poses are refined, and the given `Volume`, or None
    reconstruct : whether there will be a map
    """

    model: CryoparesModel
    particles: Any
    policy: str
    one_model: str
    refine: bool
    reference: Any
    reconstruct: bool


def infer_problems(request: Request, project_path: str = ".") -> List[str]:
    """All that is wrong, one sentence each with what to do."""
    files = ModelFiles(request.model, project_path)
    found = files.problems() + files.lacking(request.policy, request.one_model)
    found += particle_problems(request.particles, files.needs_ctf(), project_path, needs_poses=False)
    return found + files.misfits(request.particles).problems + _map_problems(request, files)


def _map_problems(request: Request, files: ModelFiles) -> List[str]:
    if not request.refine or request.reference is not None or not files.cards:
        return []
    without = files.without_map(files.at_work(request.policy, request.one_model))
    if not without:
        return []
    return [f"The model of {' and '.join(without)} has kept no map of its training particles. Give a map to refine against."]


def infer_warnings(request: Request, project_path: str = ".") -> List[str]:
    """One sentence each."""
    files, particles = ModelFiles(request.model, project_path), request.particles
    found = particle_warnings(particles, half_sets=False, project_path=project_path, needs_poses=False)
    found += files.misfits(particles).remarks
    if (particles.isPhaseFlipped() or particles.isAmplitudeCorrected()) and files.needs_ctf():
        found.append(
            "The pictures are CTF-corrected already, and the model corrects them once more. If it was not trained on pictures "
            "like these, extract the particles again without correction."
        )
    independent = request.policy == SAME_HALF and set(HALVES) <= set(files.cards)
    if request.reconstruct and not independent:
        found.append(
            "The same models find the poses of both half sets, so that the half maps are not independent and their resolution is "
            "too good. For an honest one give models of both half sets, and let each find the poses of its own."
        )
    return found
