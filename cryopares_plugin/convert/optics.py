"""Optics groups: one for each kind of picture that a set holds.

A particle has its own acquisition (sets of several microscopes can be joined). An acquisition that came from RELION carries
RELION's whole optics table as text, and `_rlnOpticsGroup` says which of its rows is the particle's.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from cryopares_core.errors import UserError
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.star import quoted

MICROSCOPE = {
    "_acquisition._voltage": "rlnVoltage",
    "_acquisition._sphericalAberration": "rlnSphericalAberration",
    "_acquisition._amplitudeContrast": "rlnAmplitudeContrast",
}
GROUP, INFO = "_rlnOpticsGroup", "_acquisition.opticsGroupInfo"
KEY_LABELS = (*MICROSCOPE, GROUP, INFO)

Key = Tuple[Any, ...]


class OpticsTable(NamedTuple):
    """`rows`: columns of RELION's optics table for each group; `number_of`: the group of each combination of `KEY_LABELS`."""

    rows: List[Dict[str, str]]
    number_of: Dict[Key, int]


def optics_table(particles: Any, rows: ParticleRows) -> OpticsTable:
    """All optics groups of a set, numbered from 1.

    Raises
    ------
    UserError : voltage, spherical aberration or amplitude contrast of some particles is not known.
    """
    table = OpticsTable([], {})
    known: Dict[Tuple[Tuple[str, str], ...], int] = {}
    for key in rows.distinct(KEY_LABELS):
        group = _group(particles, key)
        number = known.setdefault(tuple(sorted(group.items())), len(known) + 1)
        table.number_of[key] = number
        if number > len(table.rows):
            table.rows.append(group)
    return OpticsTable([_numbered(row, number, table.rows) for number, row in enumerate(table.rows, start=1)], table.number_of)


def _group(particles: Any, key: Key) -> Dict[str, str]:
    """The optics of one combination: RELION's own row where there is one, else the particle's or the set's acquisition.

    A joined set has the acquisition of the first of its parts: its optics table says nothing of particles with another one.
    """
    wanted, own_info = key[len(MICROSCOPE) :]
    of_set = microscope_of(particles)
    values = [own if own is not None else of_all for own, of_all in zip(key, of_set)]
    group = {name: f"{value:.6f}" for name, value in zip(MICROSCOPE.values(), values) if value is not None}
    row = _relions_row(own_info, wanted)
    if not row and values == of_set:
        row = _relions_row(particles.getAcquisition().opticsGroupInfo.get(), wanted)
    group.update(row)
    missing = [name for name in MICROSCOPE.values() if name not in group]
    if missing:
        raise UserError(
            f"The particles' acquisition has no {', '.join(missing)}. Import them again with voltage, spherical aberration and "
            "amplitude contrast."
        )
    group["rlnImagePixelSize"] = f"{particles.getSamplingRate():.6f}"
    if particles.getXDim():
        group["rlnImageSize"] = str(particles.getXDim())
    group["rlnImageDimensionality"] = "2"
    if particles.isPhaseFlipped():
        group["rlnCtfDataArePhaseFlipped"] = "1"
    return group


def microscope_of(particles: Any) -> List[Any]:
    """Voltage in kV, spherical aberration in mm and amplitude contrast of a set; None where not known."""
    acquisition = particles.getAcquisition()
    return [acquisition.getVoltage(), acquisition.getSphericalAberration(), acquisition.getAmplitudeContrast()]


def _relions_row(info: Optional[str], wanted: Any) -> Dict[str, str]:
    """The row of group `wanted` (None: the first) in RELION's optics table, without its number; empty where there is none."""
    for row in relions_groups(info):
        if wanted is None or float(row.get("rlnOpticsGroup", 1)) == float(wanted):
            return {name: value for name, value in row.items() if name != "rlnOpticsGroup"}
    return {}


def relions_groups(info: Optional[str]) -> List[Dict[str, str]]:
    """The rows of an optics table in STAR format; none of None."""
    names: List[str] = []
    groups = []
    for line in (info or "").splitlines():
        words = line.partition("#")[0].split()
        if words and words[0].startswith("_"):
            names.append(words[0][1:])
        elif len(names) == len(words) > 0:
            groups.append(dict(zip(names, words)))
    return groups


def _numbered(row: Dict[str, str], number: int, rows: Sequence[Dict[str, str]]) -> Dict[str, str]:
    """With a number, a name that no earlier group has, and the columns that any group has."""
    name = row.get("rlnOpticsGroupName", f"opticsGroup{number}")
    if name in [other.get("rlnOpticsGroupName") for other in rows[: number - 1]]:
        name = f"{name}_{number}"
    names = dict.fromkeys(name for other in rows for name in other if name != "rlnOpticsGroupName")
    defaults = {name: next(other[name] for other in rows if name in other) for name in names}
    values = {name: row.get(name, _nothing(defaults[name])) for name in names}
    return {"rlnOpticsGroupName": quoted(name), "rlnOpticsGroup": str(number), **values}


def _nothing(example: str) -> str:
    """What stands for no value, for numbers and for text, as in RELION's own files."""
    try:
        float(example)
    except ValueError:
        return "None"
    return "0"
