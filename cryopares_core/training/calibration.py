"""How probable it is that a pose is within 5 degrees of the truth, learned from particles held out, whose poses are known.

It rests on the network's own confidence, on how well the picture fits the map of the training particles at the pose, and on the
view direction, since some views are harder than others. The numbers stand in `calibration.json` beside the model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.files import write_text
from cryopares_core.geometry.grids import healpix_pixels
from cryopares_core.plots.calibration import Bins
from cryopares_core.search.prior import FLAT, NetworkPrior

FILE, FORMAT = "calibration.json", 1
VIEW_ORDER = 2  # 192 directions, 15 degrees apart
SMALLEST = 1e-6  # confidences nearer to 0 or 1 say no more than this


@dataclass(frozen=True)
class Signs:
    """What tells whether poses are right.

    Attributes
    ----------
    stated : `(n,)` the network's confidence, the density's mass within 5 degrees
    eulers_degs : `(n, 3)` the poses found
    fit : `(n,)` correlations of the images with the map, or None where there is no map
    network : `(n,)` the network's own confidence, where `stated` is the posterior's
    """

    stated: np.ndarray
    eulers_degs: np.ndarray
    fit: np.ndarray | None = None
    network: np.ndarray | None = None


@dataclass(frozen=True)
class Odds:
    """How probable it is that poses are within an angle of the truth.

    Attributes
    ----------
    radius_degs : the angle
    curve : `(4,)` a, b, c, d of `logit p = a ln s - b ln(1 - s) + c + d z` for a stated confidence s (Kull et al. 2017, Beta
        calibration) and a standardised fit z; `(5,)` with the factor of the logit of the network's own confidence
    view_logits : `(192,)` what is added by HEALPix pixel of the view, in ring order
    gap_before, gap_after : mean distance of confidence from what came true, of the network's own and of the calibrated one; each
        particle's was learned without it
    before, after : what the gaps are made of, for a reliability diagram
    """

    radius_degs: float
    curve: np.ndarray
    view_logits: np.ndarray
    gap_before: float
    gap_after: float
    before: Bins
    after: Bins

    def reliability(self) -> dict[str, Any]:
        """Radius, gaps and bins, as JSON has them."""
        gaps = {name: round(getattr(self, name), 5) for name in ("gap_before", "gap_after")}
        return {
            "radius_degs": self.radius_degs,
            **gaps,
            **{name: _bins_to_json(getattr(self, name)) for name in ("before", "after")},
        }


@dataclass(frozen=True)
class Calibration:
    """Turns `Signs` into probabilities.

    Attributes
    ----------
    n : particles that it was learned from
    fit_scale : mean and deviation of `artanh(fit)`; None where the fit was not known
    right : of poses within 5 degrees
    near : of poses so near, 15 degrees, that refinement brings them to the truth
    posterior : the same for poses by network and map together; None where there was no map
    prior : what the network is worth beside the map
    """

    n: int
    fit_scale: tuple[float, float] | None
    right: Odds
    near: Odds
    posterior: Calibration | None = None
    prior: NetworkPrior = FLAT

    def __call__(self, signs: Signs, odds: Odds | None = None) -> np.ndarray:
        """Probabilities `(n,)` that the poses are right, or what else `odds`, one of the two, is about."""
        odds = odds or self.right
        return sigmoid(terms(signs, self.fit_scale) @ odds.curve + odds.view_logits[pixels(signs)])


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` for the model in a folder, all or nothing."""
    write_text(folder / FILE, calibration_text(calibration, model_checksum(folder)))


def model_checksum(folder: Path) -> str | None:
    """That of the weights in a model's folder, by which a calibration knows them again; None where there are none."""
    path = folder / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def calibration_text(calibration: Calibration, checksum: str | None = None) -> str:
    """The content of `calibration.json`, with the checksum of its model."""
    of_model = {} if checksum is None else {"model_sha256": checksum}
    values = {"format": FORMAT, **of_model, **_to_json(calibration)}
    if calibration.posterior is not None:
        values |= {"posterior": _to_json(calibration.posterior), "prior": asdict(calibration.prior)}
    return json.dumps(values, indent=1) + "\n"


def _to_json(calibration: Calibration) -> dict[str, Any]:
    odds = {name: _odds_to_json(getattr(calibration, name)) for name in ("right", "near")}
    return {"n": calibration.n, "fit_scale": calibration.fit_scale, **odds}


def _odds_to_json(odds: Odds) -> dict[str, Any]:
    numbers = {"curve": odds.curve.round(6).tolist(), "view_logits": odds.view_logits.round(4).tolist()}
    return {**odds.reliability(), **numbers}


def _bins_to_json(bins: Bins) -> dict[str, list[float]]:
    return {name: getattr(bins, name).round(5).tolist() for name in ("stated", "true", "count")}


def parse_calibration(path: Path) -> Calibration:
    """What `write_calibration` wrote.

    Raises
    ------
    UserError : the file is damaged or of a newer format
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] > FORMAT:
            raise UserError(f"{path}: format {values['format']} is newer than this version knows ({FORMAT}). Update CryoPARES.")
        if values.get("posterior") is None:
            return _from_json(values)
        prior = NetworkPrior(*(float(values["prior"][field.name]) for field in fields(NetworkPrior)))
        return replace(_from_json(values), posterior=_from_json(values["posterior"]), prior=prior)
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path}: damaged ({error}). Copy it again, or remove it: confidence is then not calibrated.") from error


def _from_json(values: dict[str, Any]) -> Calibration:
    scale = None if values["fit_scale"] is None else (float(values["fit_scale"][0]), float(values["fit_scale"][1]))
    return Calibration(int(values["n"]), scale, _odds(values["right"]), _odds(values["near"]))


def _odds(values: dict[str, Any]) -> Odds:
    curve, view_logits = (np.array(values[name], dtype=np.float64) for name in ("curve", "view_logits"))
    if (
        curve.shape not in ((4,), (5,))
        or view_logits.shape != (12 * 4**VIEW_ORDER,)
        or not np.isfinite([*curve, *view_logits]).all()
    ):
        raise ValueError("its numbers are not those of a calibration")
    bins = (Bins(*(np.array(values[name][key]) for key in ("stated", "true", "count"))) for name in ("before", "after"))
    return Odds(float(values["radius_degs"]), curve, view_logits, values["gap_before"], values["gap_after"], *bins)


def pixels(signs: Signs) -> np.ndarray:
    """The HEALPix pixel of each view, `(n,)`."""
    return healpix_pixels(VIEW_ORDER, signs.eulers_degs)


def terms(signs: Signs, fit_scale: tuple[float, float] | None) -> np.ndarray:
    """What the curve multiplies, `(n, 4)`, or `(n, 5)` with the network's confidence; an unknown fit counts as an average one."""
    s = np.clip(np.asarray(signs.stated, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    fit = np.zeros_like(s)
    if fit_scale is not None and signs.fit is not None:
        fit = (artanh(signs.fit) - fit_scale[0]) / fit_scale[1]
    columns = [np.log(s), -np.log1p(-s), np.ones_like(s), fit]
    if signs.network is not None:
        network = np.clip(np.asarray(signs.network, dtype=np.float64), SMALLEST, 1 - SMALLEST)
        columns.append(np.log(network) - np.log1p(-network))
    return np.stack(columns, axis=-1)


def artanh(fit: np.ndarray) -> np.ndarray:
    """Fisher's transform: correlations on a scale that has no ends."""
    return np.arctanh(np.clip(np.asarray(fit, dtype=np.float64), -0.999, 0.999))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits."""
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
