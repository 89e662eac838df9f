"""The options of `cryopares_reconstruct`."""

from dataclasses import dataclass
from typing import List, Optional, Union

from cryopares_core.config.arguments import ACCELERATORS
from cryopares_core.config.parameters import param

AUTO, NONE, MAX_B_FACTOR = "auto", "none", 1000.0


@dataclass
class ReconstructArguments:
    """Which particles make the maps, how, and where the maps go."""

    particles_star_fname: str = param("", "RELION STAR file of particles with poses.", required=True)
    particles_dir: Optional[str] = param(
        None, "Folder that the picture names in the STAR file start from. Without it: the STAR file's folder, then its parents."
    )
    symmetry: str = param("C1", "Point group symmetry: C1, D7, T, O, I and so on, on RELION's axes.", label="Symmetry")
    out_dir: str = param("", "Folder for the maps and their Fourier shell correlation.", required=True)
    mask_fname: Optional[str] = param(
        None, "Mask (MRC), 0 to 1, for the Fourier shell correlation. Default: made from the half maps and written as mask.mrc."
    )
    mask_radius_angs: Optional[float] = param(
        None, "Radius of a soft sphere to use as the mask instead.", unit="Å", above=0, label="Radius of the mask"
    )
    b_factor: str = param(
        AUTO,
        "B-factor of map_sharpened.mrc: auto fits it where the data reach far enough beyond 10 Å, a number in Å^2 is applied as it "
        "is (negative sharpens, -100 for example), none writes no sharpened map.",
        label="B-factor",
    )
    weights_column: Optional[str] = param(
        None,
        "Column of the particles that says how much each counts, such as rlnParticleFigureOfMerit; null counts all alike.",
        label="Weights of particles",
    )
    resolution_limit_angs: Optional[float] = param(
        None, "Reconstruct nothing finer than this: faster, and less memory.", unit="Å", above=0, label="Finest detail"
    )
    ctf_correction: bool = param(
        True, "Undo the CTF; False takes pictures as projections, for particles without CTF parameters.", label="Correct the CTF?"
    )
    n_threads: Optional[int] = param(None, "Threads of the processor; null means all.", low=1)
    accelerator: str = param("auto", "Where to compute; auto takes a GPU if there is one.", choices=ACCELERATORS)

    def problems(self) -> List[str]:
        """Rules that tie several options together."""
        problems = []
        if self.mask_fname is not None and self.mask_radius_angs is not None:
            problems.append("--mask_fname and --mask_radius_angs exclude each other: give one.")
        if self.b_factor not in (AUTO, NONE) and not self._is_b_factor():
            limits = f"from -{MAX_B_FACTOR:g} to {MAX_B_FACTOR:g}"
            problems.append(f"--b_factor={self.b_factor}: expected {AUTO}, {NONE} or a number of Å^2 {limits}.")
        return problems

    def wanted_b_factor(self) -> Union[float, str, None]:
        """`auto`, a number in Å^2, or None for no sharpening."""
        if self.b_factor == NONE:
            return None
        return AUTO if self.b_factor == AUTO else float(self.b_factor)

    def _is_b_factor(self) -> bool:
        try:
            return abs(float(self.b_factor)) <= MAX_B_FACTOR
        except ValueError:
            return False
