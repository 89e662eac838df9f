"""Numbers out of STAR columns: angles, shifts, CTF, pixel sizes, half sets; everything wrong is noted, nothing raised."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cryopares_core.particles.mrc import LARGEST_SIDE_PX
from cryopares_core.particles.starblocks import SHOWN, StarBlocks
from cryopares_core.particles.table import ANGLES, FLIPPED, MULTIPLIED, CtfParameters
from cryopares_core.particles.text import TextArray, to_floats

DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
NO_ANGLE = -999.0  # what RELION writes where no angle is known
LARGEST = 1e7  # of any length in Å or pixels; what is beyond comes from a damaged file
LARGEST_ANGLE_DEG = 3600.0
# What it is, its unit, and between what it lies.
LIMITS = {
    "rlnVoltage": ("the voltage", "kV", 10, 2000),
    "rlnSphericalAberration": ("the spherical aberration", "mm", -1, 20),
    "rlnAmplitudeContrast": ("the amplitude contrast", "", 0, 1),
    "rlnImagePixelSize": ("the pixel size", "Å", 0.01, 1000),
    "rlnDetectorPixelSize": ("the detector's pixel size", "µm", 0.01, 1000),
    "rlnMagnification": ("the magnification", "", 1, LARGEST),
    "rlnImageSize": ("the picture's side", "px", 1, LARGEST_SIDE_PX),
    "rlnCtfDataArePhaseFlipped": ("it", "", 0, 1),
    "rlnCtfDataAreCtfPremultiplied": ("it", "", 0, 1),
}
FLAGS = ("rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied")
CTF_REMEDY = "Estimate the CTF, or train without it: --config datamanager.particlesDataset.ctf_correction=none."


def numbers(
    blocks: StarBlocks, name: str, remedy: str = "Mend the value, or take the row out.", largest: float = LARGEST
) -> np.ndarray | None:
    """A column of the particles as `(n,)` float64, or None where there is no such column; bad values are noted."""
    if name not in blocks.particles:
        return None
    values = to_floats(blocks.particles[name])
    # Rows that end early are noted as such already.
    blocks.complain(np.flatnonzero(~np.isfinite(values) & ~blocks.cut_off), "not a number", remedy, name)
    beyond = np.flatnonzero(np.isfinite(values) & (np.abs(values) > largest))
    blocks.complain(beyond, f"too large to be true (beyond {largest:,.0f})", remedy, name)
    return values


def angles(blocks: StarBlocks) -> np.ndarray:
    """`(n, 3)` rot, tilt, psi in degrees."""
    missing = [name for name in ANGLES if name not in blocks.particles]
    if missing:
        blocks.problems.append(
            f"{blocks.path}: no column {', '.join(missing)}: the poses are not known. Give particles after a 3D refinement "
            "(run_data.star)."
        )
        return np.zeros((len(blocks.particles), 3))
    remedy = "Give particles after a 3D refinement, or take the row out."
    columns = [numbers(blocks, name, remedy, LARGEST_ANGLE_DEG) for name in ANGLES]
    for name, column in zip(ANGLES, columns, strict=True):
        blocks.complain(np.flatnonzero(column == NO_ANGLE), "no pose is known", remedy, name)
    return np.stack([column for column in columns if column is not None], axis=1)


def optics_row(blocks: StarBlocks) -> np.ndarray | None:
    """For each particle the row of its optics group in the optics table, or None without such a table."""
    if blocks.optics is None:
        return None
    if "rlnOpticsGroup" not in blocks.particles:
        if len(blocks.optics) != 1 or "rlnOpticsGroup" not in blocks.optics:
            blocks.problems.append(f"{blocks.path}: the particles have no column rlnOpticsGroup, but there is data_optics. Add it.")
            return None
        blocks.particles = blocks.particles.assign(rlnOpticsGroup=blocks.optics["rlnOpticsGroup"].iloc[0])
    if "rlnOpticsGroup" not in blocks.optics:
        blocks.problems.append(f"{blocks.path}, data_optics: no column rlnOpticsGroup. Add it.")
        return None
    groups = pd.Series(to_floats(blocks.optics["rlnOpticsGroup"]))
    if groups.dropna().duplicated().any():
        twice = ", ".join(f"{group:g}" for group in groups[groups.duplicated()].dropna().unique())
        blocks.problems.append(f"{blocks.path}, data_optics: more than one row of rlnOpticsGroup {twice}. Number them anew.")
    place = {group: row for row, group in enumerate(groups) if np.isfinite(group)}
    rows = pd.Series(to_floats(blocks.particles["rlnOpticsGroup"])).map(place)
    known = ", ".join(f"{group:g}" for group in place) or "none"
    remedy = f"Add the group to data_optics, or mend the value (known: {known})."
    blocks.complain(np.flatnonzero(rows.isna() & ~blocks.cut_off), "no such optics group", remedy, "rlnOpticsGroup")
    return rows.fillna(0).to_numpy(dtype=np.int64)


def of_optics(blocks: StarBlocks, name: str, rows: np.ndarray | None) -> np.ndarray | None:
    """A property of each particle `(n,)`, from the optics table or, in older files, from the particles' own column."""
    if rows is None or blocks.optics is None or name not in blocks.optics:
        values = numbers(blocks, name)
        if values is not None:
            _check_limits(blocks, name, values)
        return values
    values = to_floats(blocks.optics[name])
    for row, value in enumerate(values):
        fault = "it is not a number" if not np.isfinite(value) else _fault(name, value)
        if fault:
            cell = blocks.optics[name].iloc[row]
            blocks.problems.append(f"{blocks.path}, data_optics row {row + 1}, {name} = {cell!r}: {fault}. Mend it.")
    return values[rows] if len(values) else None


def _fault(name: str, value: float) -> str:
    """What is wrong with a property of the microscope, or ""."""
    what, unit, low, high = LIMITS.get(name, ("", "", -LARGEST, LARGEST))
    return "" if low <= value <= high else f"{what} is {value:g} {unit}".rstrip() + f"; it should lie between {low:g} and {high:,g}"


def _check_limits(blocks: StarBlocks, name: str, values: np.ndarray, column: str | None = None) -> None:
    """Note particles whose property is out of its limits. Values that are no numbers are noted elsewhere."""
    _, _, low, high = LIMITS.get(name, ("", "", -LARGEST, LARGEST))
    rows = np.flatnonzero((values < low) | (values > high))
    blocks.complain(rows, [_fault(name, value) for value in values[rows[:SHOWN]]], "Mend it.", column or name)


def pixel_sizes(blocks: StarBlocks, rows: np.ndarray | None) -> np.ndarray:
    """`(n,)` Å: rlnImagePixelSize, or detector pixel over magnification as before RELION 3.1. 1 where it is not known."""
    sizes = of_optics(blocks, "rlnImagePixelSize", rows)
    if sizes is None:
        sizes = _pixel_sizes_before_optics(blocks)
    if sizes is None:
        blocks.problems.append(
            f"{blocks.path}: the pixel size is not known: no rlnImagePixelSize in data_optics, no rlnDetectorPixelSize and "
            "rlnMagnification. Add rlnImagePixelSize (Å) to data_optics."
        )
        return np.ones(len(blocks.particles))
    return np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0)


def _pixel_sizes_before_optics(blocks: StarBlocks) -> np.ndarray | None:
    sizes, column = numbers(blocks, "rlnPixelSize"), "rlnPixelSize"
    if sizes is None:
        detector, magnification = numbers(blocks, "rlnDetectorPixelSize"), numbers(blocks, "rlnMagnification")
        if detector is None or magnification is None:
            return None
        for name, values in (("rlnDetectorPixelSize", detector), ("rlnMagnification", magnification)):
            _check_limits(blocks, name, values)
        sizes, column = detector * 1e4 / np.where(magnification > 0, magnification, np.nan), "rlnMagnification"
    _check_limits(blocks, "rlnImagePixelSize", sizes, column)
    return sizes


def shifts(blocks: StarBlocks, pixel_size_angs: np.ndarray, warnings: list[str]) -> np.ndarray:
    """`(n, 2)` x, y in Å: rlnOriginXAngst, or rlnOriginX in pixels as before RELION 3.1; 0 and a warning where there is neither."""
    columns = []
    for axis in "XY":
        column = numbers(blocks, f"rlnOrigin{axis}Angst")
        if column is None:
            in_pixels = numbers(blocks, f"rlnOrigin{axis}")
            column = None if in_pixels is None else in_pixels * pixel_size_angs
        columns.append(column)
    if any(column is None for column in columns):
        warnings.append(f"{blocks.path}: no shifts (rlnOriginXAngst, rlnOriginYAngst): particles are taken as centred.")
    return np.stack([np.zeros(len(blocks.particles)) if column is None else column for column in columns], axis=1)


def ctf_parameters(blocks: StarBlocks, rows: np.ndarray | None, needed: bool) -> CtfParameters:
    """CTF parameters of each particle. Where they are not needed and not all there, all are 0."""
    corrected = _corrected(blocks, rows)
    nothing, problems_before = np.zeros(len(blocks.particles)), len(blocks.problems)
    columns = [numbers(blocks, name, CTF_REMEDY) for name in DEFOCUS]
    columns += [of_optics(blocks, name, rows) for name in MICROSCOPE]
    missing = [name for name, column in zip((*DEFOCUS, *MICROSCOPE), columns, strict=True) if column is None]
    if missing:
        blocks.problems.append(f"{blocks.path}: no column {', '.join(missing)}: the CTF is not known. {CTF_REMEDY}")
    phase_shift = numbers(blocks, "rlnPhaseShift")
    if not needed and len(blocks.problems) > problems_before:
        del blocks.problems[problems_before:]
        return CtfParameters(*[*[nothing] * 7, corrected])
    filled = [nothing if column is None else column for column in (*columns, phase_shift, corrected)]
    return CtfParameters(*filled)


def _corrected(blocks: StarBlocks, rows: np.ndarray | None) -> np.ndarray:
    """What was done to each picture `(n,)`, as in `CtfParameters`; what was multiplied by its CTF has its phases flipped too."""
    flipped, multiplied = (of_optics(blocks, name, rows) for name in FLAGS)
    nothing = np.zeros(len(blocks.particles))
    done = nothing if flipped is None else np.where(flipped == 1, float(FLIPPED), nothing)
    return done if multiplied is None else np.where(multiplied == 1, float(MULTIPLIED), done)


def half_sets(blocks: StarBlocks, split_halfs: bool, warnings: list[str], seed: int = 0) -> np.ndarray:
    """`(n,)` 1 or 2 from rlnRandomSubset; drawn at random, with a warning, where there is no such column.

    What was drawn becomes a column of the particles, so that it is written with them.
    """
    count = len(blocks.particles)
    subset = numbers(blocks, "rlnRandomSubset") if split_halfs else None
    if subset is None:
        if split_halfs:
            warnings.append(
                f"{blocks.path}: no half sets (rlnRandomSubset): drawn at random with seed {seed}. They are not those of the "
                "refinement that gave the poses."
            )
        drawn = (np.random.default_rng(seed).permutation(count) % 2 + 1).astype(np.int8)
        if split_halfs:
            blocks.particles = blocks.particles.assign(rlnRandomSubset=TextArray(drawn.astype("S1")))
        return drawn
    rows = np.flatnonzero(~np.isin(subset, (1, 2)) & np.isfinite(subset))
    blocks.complain(rows, "a half set is 1 or 2", "Mend it, or use --split_halfs False.", "rlnRandomSubset")
    return np.where(subset == 2, 2, 1).astype(np.int8)
