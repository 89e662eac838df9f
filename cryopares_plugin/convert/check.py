"""What the form says of its particles before anything runs: from the set's properties and its first rows only."""

import os
from typing import Any, List

import numpy as np

from cryopares_core.errors import UserError
from cryopares_plugin.convert.columns import MATRIX
from cryopares_plugin.convert.halves import half_set_label
from cryopares_plugin.convert.optics import GROUP, INFO, MICROSCOPE, microscope_of, relions_groups
from cryopares_plugin.convert.pictures import PICTURES, contrast
from cryopares_plugin.convert.poses import are_poses, read_matrices
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.stacks import file_of

ROWS, FILES = 2000, 100  # looked at
FEW_PARTICLES = 10_000
ENOUGH_PARTICLES = 100_000
COARSE_SAMPLING = 4.0  # Å/px
CLEAR = 4.0  # standard errors
ONE_VIEW = 0.95

ALIGNED_BY = "a 3D refinement, such as 'relion - 3D auto-refine', 'cryosparc - non-uniform refinement' or 'xmipp3 - highres'"
NO_ALIGNMENT = {
    "2D": f"The particles are aligned in 2D only. Give those of {ALIGNED_BY}.",
    "3D": "The particles carry a 3D alignment (of volumes), not projection directions. Give those of " + ALIGNED_BY + ".",
}


def particle_problems(particles: Any, needs_ctf: bool = True, project_path: str = ".") -> List[str]:
    """Why a set cannot be trained on, each with what to do; empty when it can, as far as its first rows tell."""
    if particles is None or particles.isEmpty():
        return ["The set has no particles. Choose another one."]
    return [*set_problems(particles, needs_ctf), *_first_rows(particles, project_path)]


def set_problems(particles: Any, needs_ctf: bool) -> List[str]:
    """The problems that the set's properties tell, without a look at its particles."""
    found = []
    if not particles.hasAlignmentProj():
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


def _first_rows(particles: Any, project_path: str) -> List[str]:
    try:
        rows = ParticleRows(particles, project_path)
        block = rows.head(["id", "_filename", MATRIX, *MICROSCOPE, INFO], ROWS)
    except UserError as error:
        return error.problems
    if not block["id"]:
        return ["All particles of the set are disabled. Choose another one."]
    poses = _pose_problems(block) if particles.hasAlignmentProj() else []
    return [*poses, *_missing_files(block["_filename"], project_path), *_microscope(particles, block)]


def _pose_problems(block: Any) -> List[str]:
    bad = np.flatnonzero(~are_poses(read_matrices(block[MATRIX])))
    if not len(bad):
        return []
    return [
        f"{len(bad):,} of the first {len(block['id']):,} particles have no pose, or a matrix that is no rotation (first: id "
        f"{block['id'][bad[0]]}). Give those of {ALIGNED_BY}."
    ]


def _missing_files(files: Any, project_path: str) -> List[str]:
    stacks = list(dict.fromkeys(file_of(file) for file in files))[:FILES]
    missing = [stack for stack in stacks if not os.path.exists(os.path.join(project_path, stack))]
    if not missing:
        return []
    return [
        f"{len(missing)} of the first {len(stacks)} stacks are not there (first: {missing[0]}). Was a folder moved, or a disk not "
        "mounted? Mend the link, or import the particles again."
    ]


def _microscope(particles: Any, block: Any) -> List[str]:
    of_set = microscope_of(particles)
    if particles.getAcquisition().opticsGroupInfo.get() or block[INFO][0] or None not in of_set:
        return []
    missing = [
        name
        for name, label, value in zip(("voltage", "spherical aberration", "amplitude contrast"), MICROSCOPE, of_set)
        if value is None and None in block[label]
    ]
    return [f"The particles' acquisition has no {', '.join(missing)}. Import them again with these values."] if missing else []


def particle_warnings(particles: Any, half_sets: bool = True, project_path: str = ".") -> List[str]:
    """What is allowed but hardly meant, each with what to do. Looks at up to 64 pictures of a set without problems."""
    if particle_problems(particles, needs_ctf=False, project_path=project_path):
        return []
    rows = ParticleRows(particles, project_path)
    found = [*_corrected(particles), *_size(particles), *_views(rows), *_groups(particles, rows), *_contrast(rows, project_path)]
    if half_sets and half_set_label(rows) is None:
        found.append(
            "The particles carry no half sets (rlnRandomSubset): they will be drawn at random, and are then not those of the "
            "refinement that gave the poses. For independent halves give particles of a RELION refinement."
        )
    return found


def _corrected(particles: Any) -> List[str]:
    done = "phase-flipped" if particles.isPhaseFlipped() else "CTF-corrected" if particles.isAmplitudeCorrected() else ""
    if not done:
        return []
    return [
        f"The pictures are {done} already, and would be corrected twice. Extract them again without correction, or set the "
        "CTF correction to 'none', here and wherever the model is used."
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


def _views(rows: ParticleRows) -> List[str]:
    directions = read_matrices(rows.head([MATRIX], ROWS)[MATRIX])[:, :3, 2]
    # The largest part of the directions' spread along one axis: 1/3 for views from everywhere, 1 for one view.
    along_one_axis = np.linalg.eigvalsh(directions.T @ directions / len(directions))[-1]
    if len(directions) < 10 or along_one_axis < ONE_VIEW:
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


def _contrast(rows: ParticleRows, project_path: str) -> List[str]:
    try:
        seen = contrast(rows, project_path)
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
