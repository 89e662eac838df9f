"""Whether a model and new particles fit each other, as far as can be told before anything runs."""

import os
from typing import Any, Dict, List

from cryopares_core.config.infer_arguments import BOTH, ONE_MODEL, SAME_HALF
from cryopares_core.config.model_fit import Misfits, disc_radius_angs, misfits
from cryopares_plugin.objects import CryoparesModel, model_cards

HALVES = ("half1", "half2")
TRAINING_MAP = "starting_map.mrc"


class ModelFiles:
    """What the files of a model say of it.

    Parameters
    ----------
    model : what Scipion keeps of it
    project_path : the project's folder, which the model's path starts from
    """

    def __init__(self, model: CryoparesModel, project_path: str = "."):
        self.path = os.path.join(project_path, model.getPath())
        self.cards = model_cards(self.path)

    def problems(self) -> List[str]:
        """A sentence where there is no model."""
        if self.cards:
            return []
        return [f"The model's files are not in {self.path}: its folder was moved or is damaged. Import the model again."]

    def needs_ctf(self) -> bool:
        """Whether it corrects the CTF of its pictures."""
        return bool(self._pictures().get("ctf_correction") != "none")

    def misfits(self, particles: Any) -> Misfits:
        """Pictures that are too coarse or too small for it."""
        card: Dict[str, Any] = next(iter(self.cards.values()), {})
        box = (particles.getDim() or (0,))[0]
        if not card or not box:
            return Misfits([], [])
        pixel, model_pixel = particles.getSamplingRate(), card["sampling_rate_angs"]
        radius = disc_radius_angs(self._pictures().get("mask_radius_angs"), card["image_size_px"], model_pixel)
        return misfits(pixel, box * pixel, model_pixel, 2 * radius)

    def lacking(self, policy: str, wanted: str) -> List[str]:
        """A sentence where a policy asks for models that are not there. `wanted`: that of one_model by name, or nothing."""
        needed = [wanted] if policy == ONE_MODEL and wanted else list(HALVES) if policy == BOTH else []
        if policy == SAME_HALF and set(HALVES) & set(self.cards):
            needed = list(HALVES)
        missing = [name for name in needed if name not in self.cards]
        if not missing or not self.cards:
            return []
        return [
            f"The model of {' and '.join(missing)} is not there, only {', '.join(self.cards)}. Finish the training, or set 'Which "
            f"model' to {ONE_MODEL}."
        ]

    def at_work(self, policy: str, wanted: str) -> List[str]:
        """The names of the models that a policy uses."""
        halves = [name for name in HALVES if name in self.cards]
        if policy != ONE_MODEL and halves:
            return halves
        return [wanted] if wanted else [name for name in ("allParticles", *HALVES, *self.cards) if name in self.cards][:1]

    def without_map(self, names: List[str]) -> List[str]:
        """Those models, of some names, that have kept no map of their training particles."""
        return [name for name in names if not os.path.isfile(os.path.join(self.path, name, TRAINING_MAP))]

    def _pictures(self) -> Dict[str, Any]:
        card: Dict[str, Any] = next(iter(self.cards.values()), {})
        pictures: Dict[str, Any] = card.get("config", {}).get("datamanager", {}).get("particlesDataset", {})
        return pictures
