"""The options of `cryopares_refine`."""

from dataclasses import dataclass
from typing import List, Optional

from cryopares_core.config.arguments import ACCELERATORS
from cryopares_core.config.parameters import param


@dataclass
class RefineArguments:
    """Which particles, against which map, how far, and where the result goes."""

    particles_star_fname: str = param("", "RELION STAR file of particles with poses.", required=True)
    particles_dir: Optional[str] = param(
        None, "Folder that the picture names in the STAR file start from. Without it: the STAR file's folder, then its parents."
    )
    reference_fname: str = param("", "Map (MRC) to refine against, cubic, of any box and pixel size.", required=True)
    reference_half2_fname: Optional[str] = param(
        None, "Map for the particles of half set 2 (rlnRandomSubset); --reference_fname is that of half set 1 then."
    )
    sampling_rate: Optional[float] = param(
        None, "Pixel size of the maps; null takes their headers'.", unit="Å/px", above=0, high=100, advanced=True
    )
    symmetry: str = param("C1", "Point group of the map, on RELION's axes: it is checked that the map has it.", label="Symmetry")
    out_star: str = param(
        "", "STAR file to write. Beside it a table (.moves.csv) tells what became of each particle.", required=True
    )
    resolution_angs: float = param(
        8.0, "Finest detail to look at: no finer than the map is reliable.", unit="Å", above=0, high=200, label="Resolution limit"
    )
    mask_radius_angs: Optional[float] = param(
        None, "Radius of the particle; what the map has further out is taken off. Null means the map's box.", unit="Å", above=0
    )
    max_angle_degs: float = param(
        15.0, "A particle that turned further keeps its pose.", unit="degrees", above=0, high=180, label="Largest turn"
    )
    max_shift_angs: float = param(
        25.0, "A particle that moved further keeps its shift and pose.", unit="Å", above=0, label="Largest shift"
    )
    expected_error_degs: float = param(
        5.0,
        "How wrong the poses are about: the worse, the coarser refinement begins.",
        unit="degrees",
        above=0,
        high=45,
        label="Error of the poses",
    )
    shift_search_angs: float = param(
        0.0, "Search for the shift within so much first; for particles whose shifts are not known.", unit="Å", low=0
    )
    iterations: int = param(
        0,
        "Maximum number of iterations after that against the particles' own half maps. Each half set (rlnRandomSubset) is refined "
        "against its own map, until nothing moves.",
        low=0,
        high=99,
        label="Iterations",
    )
    use_ctf: bool = param(True, "False for pictures that are CTF-corrected or have no CTF.", label="Use the CTF?")
    grid_search: bool = param(False, "Search on a grid instead of climbing: about ten times slower.", advanced=True)
    chunk_size: int = param(
        10_000, "Particles after which results are written down; a run that is killed loses no more.", low=1, advanced=True
    )
    overwrite: bool = param(False, "Replace the results of another command in --out_star.")
    n_threads: Optional[int] = param(None, "Threads of the processor; null means all.", low=1)
    accelerator: str = param("auto", "Where to compute; auto takes a GPU if there is one.", choices=ACCELERATORS)

    def problems(self) -> List[str]:
        """Rules that tie several options together."""
        found = []
        if self.shift_search_angs > self.max_shift_angs:
            found.append(
                f"--shift_search_angs={self.shift_search_angs:g} is above --max_shift_angs={self.max_shift_angs:g}: what lies "
                "beyond would not be kept."
            )
        if self.out_star and not self.out_star.endswith(".star"):
            found.append(f"--out_star={self.out_star}: give a name that ends in .star.")
        return found
