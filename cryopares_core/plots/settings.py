"""The settings of a run beside their defaults, from its `config.yml` and `run.json`."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.merge import load_config
from cryopares_core.config.parameters import get_value, parameters
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.plots.records import RunRecord

NONE = "–"
NETWORK, DATA = "models.image2sphere.", "datamanager."


@dataclass(frozen=True)
class Setting:
    """One setting as text, with its unit and meaning."""

    name: str
    value: str
    default: str
    help: str

    @property
    def changed(self) -> bool:
        return self.value != self.default


def all_settings(record: RunRecord) -> List[Setting]:
    """Options of the command line, then the tree of parameters; what cannot be read, or is of another version, is left out."""
    given = record.arguments
    options = {"--" + name: leaf for name, leaf in parameters(TrainArguments).items() if name in given}
    settings = [_setting(name, leaf, given[leaf.name]) for name, leaf in options.items()]
    tree = _tree(record.folder / "config.yml")
    return settings + [_setting(name, leaf, tree[name]) for name, leaf in parameters(Config).items() if name in tree]


def command_line(record: RunRecord) -> str:
    """The command as it can be typed again, without the folder that the program lies in."""
    words = [str(word) for word in record.settings.get("command") or []]
    return shlex.join([Path(words[0]).stem.replace("__main__", "cryopares_train"), *words[1:]]) if words else ""


def trained_text(record: RunRecord) -> str:
    """What was trained on what, and how, in three sentences."""
    halves, given = record.expected, record.arguments
    networks = "One network" if len(halves) == 1 else "Two networks, one for each half set,"
    stars = ", ".join(Path(str(name)).name for name in given.get("particles_star_fname") or [])
    views = f"simulated views of {Path(str(given.get('map_fname_for_simulated_pretraining'))).name}"
    source = f"{record.n_particles or 0:,} particles of {stars}" if stars else views
    begun = ""
    if given.get("finetune_checkpoint_dir"):
        begun = f", from the weights of {given['finetune_checkpoint_dir']}"
    elif stars and given.get("map_fname_for_simulated_pretraining"):
        begun = f", after {views}"
    known = {item.name: item.value for item in all_settings(record)}
    how = _network_text(known) + _schedule_text(known, record) if f"{NETWORK}lmax" in known else ""
    return f"{networks} of symmetry {record.symmetry} on {source}{begun}.{how}"


def _network_text(known: Dict[str, str]) -> str:
    """The shape of the network."""
    prefix, encoder = NETWORK, f"{NETWORK}imageencoder."
    resnet = known[f"{encoder}resnet.resnetName"]
    name = f"U-Net of width {known[f'{encoder}unet.width']}" if resnet == NONE else resnet
    features = known[f"{prefix}so3components.s2conv.f_out"]
    return f" Its encoder is a {name}; on SO(3) it has {features} features up to degree {known[f'{prefix}lmax']}."


def _schedule_text(known: Dict[str, str], record: RunRecord) -> str:
    """For how long, in what portions, and how fast."""
    size = record.settings.get("batch_size") or record.arguments.get("batch_size")
    if not size or not record.n_epochs:
        return ""
    copies = known[f"{DATA}num_augmented_copies_per_batch"] if known[f"{DATA}augment_train"] == "True" else "1"
    augmented = f", with {copies} augmented copies of each particle" if copies != "1" else ""
    many = record.settings.get("processes") or 1
    together = f", by {many} processes together" if many > 1 else ""
    epochs = "1 epoch" if record.n_epochs == 1 else f"{record.n_epochs} epochs"
    text = f" Training takes {epochs}, in batches of {size} pictures{augmented}{together}"
    return f"{text}, at a learning rate of {known['train.learning_rate']} to begin with."


def _tree(path: Path) -> Dict[str, Any]:
    try:
        config = load_config(str(path))
    except UserError:
        return {}
    return {name: get_value(config, name) for name in parameters(Config)}


def _setting(name: str, leaf: Any, value: Any) -> Setting:
    unit = f" ({leaf.rules.unit})" if leaf.rules.unit else ""
    return Setting(name, _text(value), _text(leaf.default), leaf.rules.help.rstrip(".") + unit)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NONE
    return NONE if value is None else str(value)
