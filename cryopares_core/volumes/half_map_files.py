"""What a reconstruction leaves in its folder, under names that RELION's programs understand."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
from torch import Tensor

from cryopares_core.files import atomic_path, write_text
from cryopares_core.plots.figures import new_figure, save_png
from cryopares_core.plots.fsc import FSC_COLUMNS, draw_fsc, read_fsc
from cryopares_core.volumes.fsc import FscCurves
from cryopares_core.volumes.half_maps import HalfMaps
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.sharpen import Sharpened

HALVES, MAP, SUMMARY = ("half1_map.mrc", "half2_map.mrc"), "map.mrc", "reconstruction.json"
MASK, SHARPENED = "mask.mrc", "map_sharpened.mrc"
MAPS = (*HALVES, MAP, MASK, SHARPENED)
FSC_CSV, FSC_STAR, FSC_PNG = "fsc.csv", "fsc.star", "fsc.png"
# RELION's names of the curves, as in its postprocess.star.
STAR_COLUMNS = {
    "rlnFourierShellCorrelationCorrected": "corrected",
    "rlnFourierShellCorrelationUnmaskedMaps": "unmasked",
    "rlnFourierShellCorrelationMaskedMaps": "masked",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": "randomised",
}
UNFINISHED = ".unfinished"  # stands while files are written
NO_FREQUENCY_ANGS = 999.0  # what RELION writes for the resolution of the origin


def write_half_maps(
    folder: str | Path, half_maps: HalfMaps, about: Mapping[str, Any] | None = None, sharpened: Sharpened | None = None
) -> Path:
    """Write maps, mask, correlations and their plot, each all or nothing, and last a summary; returns the path of the whole map.

    `about` is what else the summary shall tell; `sharpened` goes into a file of its own, where it holds a map. Where
    `reconstruction.json` stands, all files are of one reconstruction.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    (folder / SUMMARY).unlink(missing_ok=True)
    volumes = (half_maps.half1, half_maps.half2, half_maps.volume, half_maps.mask, sharpened.volume if sharpened else None)
    for name, volume in zip(MAPS, volumes, strict=True):
        if volume is None:
            (folder / name).unlink(missing_ok=True)  # of an earlier reconstruction
        else:
            write_map(folder / name, volume.numpy(), half_maps.pixel_size_angs)
    columns = fsc_columns(half_maps.fsc)
    write_text(folder / FSC_CSV, _csv(columns))
    _write_star(folder / FSC_STAR, columns, half_maps.fsc)
    figure = new_figure(7.0, 4.6)
    draw_fsc(figure, columns, _finite(half_maps.resolution_angs))
    save_png(figure, folder / FSC_PNG)
    write_text(folder / SUMMARY, json.dumps({**summary(half_maps, sharpened), **(about or {})}, indent=1))
    (folder / UNFINISHED).unlink(missing_ok=True)
    return folder / MAP


def foreign_maps(folder: Path) -> list[str]:
    """Names in a folder that `write_half_maps` would overwrite although it did not write them."""
    if (folder / SUMMARY).exists() or (folder / UNFINISHED).exists() or read_fsc(folder / FSC_CSV) is not None:
        return []
    return [name for name in MAPS if os.path.lexists(folder / name)]


def remove_half_maps(folder: Path) -> None:
    """Remove what `write_half_maps` wrote, the summary first."""
    if not foreign_maps(folder):
        for name in (SUMMARY, *MAPS, FSC_CSV, FSC_STAR, FSC_PNG, UNFINISHED):
            (folder / name).unlink(missing_ok=True)


def copy_half_maps(source: Path, target: Path) -> None:
    """Copy what `write_half_maps` left in a folder to another one, the summary last."""
    target.mkdir(parents=True, exist_ok=True)
    (target / UNFINISHED).touch()
    remove_half_maps(target)
    (target / UNFINISHED).touch()
    for name in (*MAPS, FSC_CSV, FSC_STAR, FSC_PNG, SUMMARY):
        if (source / name).is_file():
            with atomic_path(target / name) as temporary:
                shutil.copyfile(source / name, temporary)
    (target / UNFINISHED).unlink(missing_ok=True)


def summary(half_maps: HalfMaps, sharpened: Sharpened | None = None) -> dict[str, Any]:
    """The figures of a reconstruction; a resolution or a B-factor that there is none of is None."""
    sharpening = {} if sharpened is None else {"b_factor_angs2": sharpened.b_factor_angs2, "sharpening": sharpened.note}
    return {
        "resolution_angs": _finite(half_maps.resolution_angs),
        "unmasked_resolution_angs": _finite(half_maps.fsc.unmasked_resolution_angs),
        "particles": list(half_maps.n_particles),
        "symmetry": half_maps.symmetry,
        "box_px": len(half_maps.volume),
        "pixel_size_angs": half_maps.pixel_size_angs,
        "mask": half_maps.mask_note,
        **sharpening,
    }


def fsc_columns(fsc: FscCurves) -> dict[str, np.ndarray]:
    """The correlations by the names of FSC_COLUMNS, one row a shell; the origin's resolution is nan."""
    shell = np.arange(len(fsc.masked))
    curves = {field.name: getattr(fsc, field.name) for field in fields(fsc)}
    found = {name: curve.double().numpy() for name, curve in curves.items() if isinstance(curve, Tensor)}
    found |= {"shell": shell, "resolution_angs": np.where(shell > 0, fsc.size_angs / np.maximum(shell, 1), np.nan)}
    return {name: found[name] for name in FSC_COLUMNS}


def _csv(columns: Mapping[str, np.ndarray]) -> str:
    layout = ",".join(["%d", "%.4f", *["%.5f"] * (len(columns) - 2)])
    rows = (layout % row for row in zip(*columns.values(), strict=True))
    return "\n".join([",".join(columns), *(row.replace("nan", "") for row in rows), ""])


def _write_star(path: Path, columns: Mapping[str, np.ndarray], fsc: FscCurves) -> None:
    spacing = np.nan_to_num(columns["resolution_angs"], nan=NO_FREQUENCY_ANGS)
    table = {"rlnSpectralIndex": columns["shell"], "rlnResolution": 1 / spacing, "rlnAngstromResolution": spacing}
    table |= {name: columns[ours] for name, ours in STAR_COLUMNS.items()}
    general = {
        "rlnFinalResolution": _finite(fsc.resolution_angs) or NO_FREQUENCY_ANGS,
        "rlnUnfilteredMapHalf1": HALVES[0],
        "rlnUnfilteredMapHalf2": HALVES[1],
        "rlnRandomiseFrom": fsc.size_angs / max(1, fsc.random_from),
    }
    with atomic_path(path) as temporary:
        starfile.write({"general": general, "fsc": pd.DataFrame(table)}, temporary, overwrite=True, float_format="%.6f")


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
