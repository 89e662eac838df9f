"""The options of `cryopares_train`. Other commands have dataclasses of their own, made in the same way."""

# ruff: noqa: RUF009 -- `param` and `section` return dataclass fields, made anew for each instance.

from dataclasses import dataclass
from typing import List, Optional

from cryopares_core.config.parameters import param
from cryopares_core.config.recipes import GUIDE, RECIPES

ACCELERATORS = ("auto", "cpu", "gpu")
_CONTINUE = "continue_checkpoint_dir"
_MAP = "map_fname_for_simulated_pretraining"


@dataclass
class TrainArguments:
    """What to train on, where to write, and for how long; all else is in the configuration tree."""

    symmetry: Optional[str] = param(
        None, "Point group symmetry: C1, D7, T, O, I and so on, on RELION's axes.", required_unless=(_CONTINUE,), label="Symmetry"
    )
    particles_star_fname: List[str] = param(
        [], "RELION STAR file of aligned particles, or several.", required_unless=(_CONTINUE, _MAP)
    )
    particles_dir: List[str] = param(
        [],
        "Folder that the picture names in the STAR file start from; one, or one for each STAR file. "
        "Without it: the STAR file's folder, then its parents.",
    )
    train_save_dir: Optional[str] = param(
        None, "Folder for the results; each run adds a version_N to it.", required_unless=(_CONTINUE,)
    )
    n_epochs: int = param(100, "Training epochs in all, with those before a continued run.", unit="epochs", low=1, label="Epochs")
    batch_size: int = param(
        64,
        "Pictures in a batch, augmented copies and all GPUs included; 0 takes as many as the memory holds.",
        low=0,
        words=(("auto", 0),),
        label="Batch size",
    )
    recipe: str = param(
        GUIDE,
        "Settings to start from: guide has the defaults as documented; fast learns in half the time, at a higher rate. What is "
        "set otherwise goes first.",
        choices=tuple(RECIPES),
        label="Recipe",
    )
    split_halfs: bool = param(
        True,
        "Train one model for each half set; False trains one on all particles.",
        aliases=("split_halves",),
        label="One model for each half set?",
    )
    continue_checkpoint_dir: Optional[str] = param(None, "Folder version_N of a run that is to go on.")
    finetune_checkpoint_dir: Optional[str] = param(None, "Folder version_N of a trained model to start from.")
    map_fname_for_simulated_pretraining: Optional[str] = param(
        None, "Map (MRC) whose simulated views are learned first, or alone where no particles are given."
    )
    compile_model: bool = param(False, "Compile the network: a slower start, then faster steps.", label="Compile the network?")
    overfit_batches: Optional[int] = param(
        None,
        "For tests of a set-up: train on so many batches over and over.",
        unit="batches",
        low=1,
        advanced=True,
        label="Overfit on so many batches",
    )
    val_check_interval: Optional[float] = param(
        None,
        "Validate each time this part of an epoch is done; null means at its end.",
        above=0,
        high=1,
        advanced=True,
        label="Validate every part of an epoch",
    )
    scratch_dir: Optional[str] = param(
        None,
        "Folder on a fast local disk for prepared pictures, which later runs find there; null keeps them in memory if they fit.",
    )
    n_threads: Optional[int] = param(None, "Threads of the processor; null means all.", low=1)
    devices: Optional[int] = param(
        None, "GPUs of this machine to train on together, or processes without a GPU; null means all GPUs, or one process.", low=1
    )
    accelerator: str = param("auto", "Where to compute; auto takes a GPU if there is one.", choices=ACCELERATORS)

    def problems(self) -> List[str]:
        """Rules that tie several options together."""
        problems = []
        n_stars, n_dirs = len(self.particles_star_fname), len(self.particles_dir)
        if n_stars and n_dirs not in (0, 1, n_stars):
            problems.append(f"--particles_dir names {n_dirs} folders for {n_stars} STAR files: give one for all, or one for each.")
        if self.continue_checkpoint_dir and self.finetune_checkpoint_dir:
            problems.append("--continue_checkpoint_dir and --finetune_checkpoint_dir exclude each other: give one.")
        return problems
