"""What the form says of its particles before anything runs: from the set's properties, all its rows, and some of its files."""

from typing import Any, List, Tuple

from pwem.constants import ALIGN_2D

from cryopares_core.errors import UserError
from cryopares_plugin.convert.files import header_problems, header_warnings, missing_stacks, read_headers
from cryopares_plugin.convert.halves import half_set_label
from cryopares_plugin.convert.optics import GROUP, INFO, MICROSCOPE, microscope_of, relions_groups
from cryopares_plugin.convert.pictures import PICTURES, contrast
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.whole import Whole, look_at_whole

FEW_PARTICLES = 10_000
ENOUGH_PARTICLES = 100_000
COARSE_SAMPLING = 4.0  # Å/px
LOOKED_AT = 2000  # rows, for the acquisition
CLEAR = 4.0  # standard errors
ONE_VIEW = 0.95

ALIGNED_BY = "a 3D refinement, such as 'relion - 3D auto-refine', 'cryosparc - non-uniform refinement' or 'xmipp3 - highres'"
NO_ALIGNMENT = {
    "2D": f"The particles are aligned in 2D only. Give those of {ALIGNED_BY}.",
    "3D": "The particles carry a 3D alignment (of volumes), not projection directions. Give those of " + ALIGNED_BY + ".",
}


def particle_problems(
    particles: Any, needs_ctf: bool = True, project_path: str = ".", half_sets: bool = False, needs_poses: bool = True
) -> List[str]:
    """Why a set cannot be used, each with what to do; empty when it can, as far as can be told within a second or two.

    Parameters
    ----------
    half_sets : whether one model for each half set is wanted
    needs_poses : True: the set is to be trained on; False: its poses are to be found
    """
    if particles is None or particles.isEmpty():
        return ["The set has no particles. Choose another one."]
    found = set_problems(particles, needs_ctf, needs_poses)
    return [*found, *_whole_problems(particles, project_path, half_sets, needs_poses and particles.hasAlignmentProj())]


def set_problems(particles: Any, needs_ctf: bool, needs_poses: bool = True) -> List[str]:
    """The problems that the set's properties tell, without a look at its particles."""
    found = []
    if needs_poses and not particles.hasAlignmentProj():
        unaligned = f"The particles have no projection directions to learn. Give those of {ALIGNED_BY}."
        found.append(NO_ALIGNMENT.get(particles.getAlignment(), unaligned))
    if needs_ctf and not particles.hasCTF():
        found.append(
            "The particles have no CTF. Estimate it on the micrographs (CTFFIND, Gctf) and extract them again with it, or set "
            "the CTF correction to 'none'."
        )
    if not particles.getSamplingRate():
        found.append("The particles have no sampling rate. Import or extract them again with their Å/px.")
    # The size is not known where the first stack was not there when the set was made; its absence is told then.
    x, y = (particles.getDim() or (0, 0))[:2]
    if x != y:
        found.append(f"The pictures are {x} x {y} px. Extract square ones.")
    return found


def _whole_problems(particles: Any, project_path: str, half_sets: bool, needs_poses: bool) -> List[str]:
    try:
        rows = ParticleRows(particles, project_path)
        whole = look_at_whole(particles, rows)
    except UserError as error:
        return error.problems
    if not whole.n_particles:
        return ["All particles of the set are disabled. Choose another one."]
    without_pose = "no pose, or a matrix that is no rotation", f"Give those of {ALIGNED_BY}, or a subset without these."
    poses = _lacking(whole, whole.bad_poses, *without_pose) if needs_poses else []
    ctfs = _lacking(whole, whole.without_ctf, "no CTF", "Estimate it, or give a subset without these.")
    files = missing_stacks(whole.stacks, project_path)
    headers = header_problems(read_headers(whole.stacks, project_path), whole.stacks, (particles.getDim() or (0,))[0])
    return [*poses, *ctfs, *(_half_problems(whole) if half_sets else []), *files, *headers, *_microscope(particles, rows)]


def _lacking(whole: Whole, which: Tuple[int, str], what: str, remedy: str) -> List[str]:
    count, first = which
    return [f"{count:,} of {whole.n_particles:,} particles have {what} (first: {first}). {remedy}"] if count else []


def _half_problems(whole: Whole) -> List[str]:
    """Where some particles have no half set, both halves get some."""
    first, second, none = whole.half_sizes
    if none or (first and second):
        return []
    return [
        f"All particles are of half set {1 if first else 2} (rlnRandomSubset), and the other one is empty. Give both halves, or "
        "set 'One model for each half set?' to No."
    ]


def _microscope(particles: Any, rows: ParticleRows) -> List[str]:
    of_set, block = microscope_of(particles), rows.head([*MICROSCOPE, INFO], LOOKED_AT)
    if particles.getAcquisition().opticsGroupInfo.get() or block[INFO][0] or None not in of_set:
        return []
    missing = [
        name
        for name, label, value in zip(("voltage", "spherical aberration", "amplitude contrast"), MICROSCOPE, of_set)
        if value is None and None in block[label]
    ]
    return [f"The particles' acquisition has no {', '.join(missing)}. Import them again with these values."] if missing else []


def particle_warnings(particles: Any, half_sets: bool = True, project_path: str = ".", needs_poses: bool = True) -> List[str]:
    """What is allowed but hardly meant, each with what to do. Looks at up to 64 pictures of a set without problems."""
    if particle_problems(particles, needs_ctf=False, project_path=project_path, needs_poses=needs_poses):
        return []
    rows = ParticleRows(particles, project_path)
    whole = look_at_whole(particles, rows)
    found = [*_corrected(particles), *_size(particles), *_views(whole)] if needs_poses else []
    found += [*_groups(particles, rows), *whole.doubts]
    found += header_warnings(read_headers(whole.stacks, project_path), particles.getSamplingRate())
    found += _contrast(particles, rows, project_path) + (whole.half_doubts if half_sets else [])
    if needs_poses and half_sets and half_set_label(rows) is None:
        found.append(
            "The particles carry no half sets (rlnRandomSubset): they will be drawn at random, and are then not those of the "
            "refinement that gave the poses. For independent halves give particles of a RELION refinement."
        )
    return found


def _corrected(particles: Any) -> List[str]:
    """Phases that were flipped are told to the core, which takes account of them; amplitudes it knows nothing of."""
    if not particles.isAmplitudeCorrected():
        return []
    return [
        "The pictures' amplitudes are CTF-corrected already, and would be corrected twice. Extract them again without correction, "
        "or set the CTF correction to 'none', here and wherever the model is used."
    ]


def _size(particles: Any) -> List[str]:
    count, sampling, found = particles.getSize(), particles.getSamplingRate(), []
    if count < FEW_PARTICLES:
        found.append(
            f"{count:,} particles are few: {ENOUGH_PARTICLES:,} or more are recommended. Give more, or start from a model "
            "that was trained on a similar particle or on simulated views."
        )
    if sampling > COARSE_SAMPLING:
        found.append(
            f"The pictures have {sampling:g} Å/px and show nothing finer than {2 * sampling:g} Å. For precise poses give "
            "particles that were extracted with less binning."
        )
    return found


def _views(whole: Whole) -> List[str]:
    if whole.n_particles < 10 or whole.spread < ONE_VIEW:
        return []
    return [
        "Nearly all particles are seen from one direction: other views cannot be learned from them. Check that the alignment "
        "searched all angles, and do not keep only one class of views."
    ]


def _groups(particles: Any, rows: ParticleRows) -> List[str]:
    """RELION's particles of several optics groups lose their group when Scipion imports them."""
    groups = relions_groups(particles.getAcquisition().opticsGroupInfo.get())
    microscopes = {tuple(group.get(name) for name in MICROSCOPE.values()) for group in groups}
    if len(microscopes) < 2 or rows.has(GROUP):
        return []
    return [
        f"The particles come from {len(microscopes)} different microscopes or settings, but do not say which from which: all "
        "would get the first one's CTF. Import the optics groups one by one and join the sets."
    ]


def _contrast(particles: Any, rows: ParticleRows, project_path: str) -> List[str]:
    try:
        seen = contrast(rows, project_path, particles.getAlignment() == ALIGN_2D)
    except UserError as error:
        return error.problems
    found = []
    if seen.empty:
        found.append(f"{seen.empty} of {PICTURES} pictures looked at are flat or not numbers. Take such particles out.")
    if seen.difference < -CLEAR * seen.error:
        found.append(
            "The particles look dark on a bright background; the CTF correction expects bright ones. Invert the contrast (for "
            "instance with 'relion - preprocess particles' or 'xmipp3 - preprocess particles'), here and where the model is used."
        )
    return found
