"""What Scipion keeps of a trained network."""

import json
import os
from typing import Any, Dict, List, Optional

import pwem.objects as emobj
import pyworkflow.object as pwobj

HALF_SETS = ("half1", "half2", "allParticles", "simulated")


class CryoparesModel(emobj.EMObject):
    """A trained CryoPARES network: where it lies, what it expects of pictures, and how good it was on held-out particles."""

    def __init__(self, path: Optional[str] = None, **kwargs):
        super().__init__(**kwargs)
        self._path = pwobj.String(path)
        self._symmetry = pwobj.String()
        self._samplingRate = pwobj.Float()
        self._boxSize = pwobj.Integer()
        self._halfSets = pwobj.String()
        self._epochs = pwobj.Integer()
        self._valError = pwobj.Float()
        self._valMedianError = pwobj.Float()

    def getPath(self) -> str:
        """The run folder `version_N`, relative to the project's folder."""
        return self._path.get()

    def getSymmetry(self) -> str:
        return self._symmetry.get()

    def getSamplingRate(self) -> float:
        """Pixel size of the network's pictures in Å."""
        return self._samplingRate.get()

    def getBoxSize(self) -> int:
        """Side of the network's pictures in pixels."""
        return self._boxSize.get()

    def getHalfSets(self) -> List[str]:
        """Which models there are: half1 and half2, allParticles, or simulated."""
        return (self._halfSets.get() or "").split(", ")

    def getValError(self) -> float:
        """Mean angular error of the validation particles in degrees, the mean over half sets."""
        return self._valError.get()

    def getFiles(self) -> List[str]:
        """The files that belong to it."""
        names = ("model.safetensors", "model.json")
        return [os.path.join(self.getPath(), half, name) for half in self.getHalfSets() for name in names]

    def readFolder(self) -> bool:
        """Take what is known from the models in the folder; False where there is none yet."""
        cards = model_cards(self.getPath())
        if not cards:
            return False
        first = next(iter(cards.values()))
        best = [card.get("training", {}).get("best", {}) for card in cards.values()]
        self._symmetry.set(first["symmetry"])
        self._samplingRate.set(first["sampling_rate_angs"])
        self._boxSize.set(first["image_size_px"])
        self._halfSets.set(", ".join(cards))
        self._epochs.set(max(card.get("training", {}).get("epochs", 0) for card in cards.values()))
        self._valError.set(_mean([line.get("val_geo_degs") for line in best]))
        self._valMedianError.set(_mean([line.get("val_median_geo_degs") for line in best]))
        return True

    def __str__(self) -> str:
        if not self._symmetry.hasValue():
            return "CryoparesModel (empty)"
        error = f", error {self._valError.get():.1f}°" if self._valError.hasValue() else ""
        picture = f"{self._boxSize.get()} px, {self._samplingRate.get():.2f} Å/px"
        return f"CryoparesModel ({self._symmetry.get()}, {picture}, {self._halfSets.get()}{error})"


def model_cards(folder: str) -> Dict[str, Dict[str, Any]]:
    """What the `model.json` of each half set in a run folder says; folders without a whole model are left out."""
    cards = {}
    for name in HALF_SETS:
        path = os.path.join(folder, name, "model.json")
        if os.path.isfile(path) and os.path.isfile(os.path.join(folder, name, "model.safetensors")):
            try:
                with open(path, encoding="utf-8") as file:
                    cards[name] = json.load(file)
            except ValueError:
                continue
    return cards


def _mean(values: List[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
