"""The options of `cryopares_infer`."""

from dataclasses import dataclass
from typing import List, Optional

from cryopares_core.config.arguments import ACCELERATORS
from cryopares_core.config.parameters import param

SAME_HALF, ONE_MODEL, BOTH = "same_half", "one_model", "both"
POLICIES = (SAME_HALF, ONE_MODEL, BOTH)
BOTH_EVIDENCES, NETWORK, MAP_ALONE = "both", "network", "map"
EVIDENCES = (BOTH_EVIDENCES, NETWORK, MAP_ALONE)
MODELS = ("half1", "half2", "allParticles", "simulated")


@dataclass
class InferArguments:
    """Which particles, by which models, and where the poses go."""

    particles_star_fname: str = param("", "RELION STAR file of the particles; poses in it are not needed.", required=True)
    particles_dir: Optional[str] = param(
        None, "Folder that the picture names in the STAR file start from. Without it: the STAR file's folder, then its parents."
    )
    checkpoint_dir: Optional[str] = param(
        None,
        "Trained model: a run's folder version_N, the folder of one of its half sets, or a .cryopares file. Without a model, the "
        "map of --reference_fname is searched exhaustively.",
        required_unless=("reference_fname",),
    )
    results_dir: str = param("", "Folder for the results; a run that was stopped goes on there.", required=True)
    symmetry: Optional[str] = param(
        None,
        "Point group that you expect; a model of another one is refused. Default: the model's, or C1 without a model.",
        label="Symmetry",
    )
    evidence: str = param(
        BOTH_EVIDENCES,
        "What decides on a pose. both: the network and the likelihood of the map, each half set with its own map. network: the "
        "network alone. map: an exhaustive search against the map alone.",
        choices=EVIDENCES,
        label="Evidence for poses",
    )
    policy: str = param(
        SAME_HALF,
        "Which model for which particles: that of the particle's own half set, so that half maps stay independent; one model for "
        "all; or both models together, which is more exact.",
        choices=POLICIES,
        label="Which model",
    )
    model: Optional[str] = param(
        None,
        "The model of --policy one_model; null takes allParticles, else half1.",
        choices=MODELS,
        advanced=True,
        label="The one model",
    )
    top_k: int = param(1, "Poses to keep of each particle, the most probable ones.", low=1, high=10, label="Poses of each particle")
    confidence_threshold: Optional[float] = param(
        None,
        "Keep particles of which it is at least so probable that the pose is within 5°; null keeps all.",
        low=0.0,
        high=1.0,
        label="Least confidence",
    )
    consensus: bool = param(
        False,
        "Find each particle's pose with the models of both half sets and write how far they disagree, at twice the cost. The pose "
        "that is written stays that of the particle's own half set.",
        advanced=True,
        label="Compare both half models?",
    )
    consensus_max_error_degs: Optional[float] = param(
        None,
        "Keep only particles whose poses by the models of both half sets are nearer to each other than this (implies --consensus); "
        "null keeps all.",
        unit="°",
        above=0,
        high=180,
        advanced=True,
        label="Maximum disagreement of half models",
    )
    quarter_turns: bool = param(
        False,
        "Average over the four quarter turns of each picture: somewhat more exact, at four times the cost.",
        label="Average over quarter turns?",
    )
    refine: bool = param(
        False,
        "Refine poses and shifts down to --resolution_angs afterwards, against the map of the training particles of the same half "
        "set or a given one.",
        label="Refine the poses?",
    )
    reference_fname: Optional[str] = param(
        None, "Map (MRC) to search and refine against, of any box and pixel size. Default: that of the training particles."
    )
    reference_half2_fname: Optional[str] = param(
        None, "Map for the particles of half set 2; --reference_fname is that of half set 1 then."
    )
    mask_radius_angs: Optional[float] = param(
        None,
        "Radius of the particle; density of the map beyond it is ignored. Default: that of the model, or the box of the map.",
        unit="Å",
        above=0,
        advanced=True,
        label="Particle radius",
    )
    shift_search_angs: Optional[float] = param(
        None,
        "Radius of the search for shifts about those in the file. Default: 0 where the file has origins, else 20.",
        unit="Å",
        low=0,
        high=100,
        advanced=True,
        label="Shift search",
    )
    resolution_angs: float = param(
        8.0,
        "Finest detail that --refine looks at: no finer than the map is reliable.",
        unit="Å",
        above=0,
        high=200,
        label="Resolution limit",
    )
    reconstruct: bool = param(
        False, "Make half maps of the particles kept, and their Fourier shell correlation.", label="Reconstruct a map?"
    )
    iterations: int = param(
        0,
        "Maximum number of iterations after that against the particles' own half maps: half maps of the poses, poses by the half "
        "maps, at a resolution that rises with their FSC, until nothing moves. Each half set is refined against its own half map. "
        "0: none.",
        low=0,
        high=50,
        label="Iterations against own half maps",
    )
    batch_size: int = param(64, "Pictures that the network is given at once.", low=1, high=100_000, label="Batch size")
    shard_size: int = param(
        10_000, "Particles after which their poses are written down; a run that is killed loses no more.", low=1, advanced=True
    )
    n_threads: Optional[int] = param(None, "Threads of the processor, of all processes together; null means all.", low=1)
    devices: Optional[int] = param(
        None, "GPUs of this machine to share the work, or processes without a GPU; null means all GPUs, or one process.", low=1
    )
    accelerator: str = param("auto", "Where to compute; auto takes a GPU if there is one.", choices=ACCELERATORS)

    @property
    def used_evidence(self) -> str:
        """What decides: without a model, the map alone."""
        return MAP_ALONE if self.checkpoint_dir is None else self.evidence

    @property
    def asks_consensus(self) -> bool:
        """Whether a second pose of each particle is found, by the model of the other half set."""
        return self.consensus or self.consensus_max_error_degs is not None

    @property
    def makes_maps(self) -> bool:
        """Whether half maps are wanted."""
        return self.reconstruct or self.iterations > 0

    def problems(self) -> List[str]:
        """Rules that tie several options together."""
        found = []
        if self.model is not None and self.policy != ONE_MODEL:
            found.append(f"--model={self.model} needs --policy {ONE_MODEL} (it is {self.policy}).")
        if (self.reference_fname or self.reference_half2_fname) and self.used_evidence == NETWORK and not self.refine:
            found.append(f"--reference_fname is not used with --evidence {NETWORK}: add --refine, or choose another evidence.")
        if self.checkpoint_dir is None and self.reference_fname and self.evidence == NETWORK:
            found.append(f"--evidence {NETWORK} needs a model: give --checkpoint_dir.")
        if self.quarter_turns and self.used_evidence == MAP_ALONE:
            found.append("--quarter_turns needs a network: leave it out, or give --checkpoint_dir and --evidence both.")
        if self.reference_half2_fname and not self.reference_fname:
            found.append("--reference_half2_fname needs --reference_fname, the map of half set 1.")
        return found + (self._consensus_problems() if self.asks_consensus else [])

    def _consensus_problems(self) -> List[str]:
        """Two poses that are to be compared need two models, or two maps."""
        option = "--consensus" if self.consensus_max_error_degs is None else "--consensus_max_error_degs"
        if self.checkpoint_dir is not None and self.policy != SAME_HALF:
            return [
                f"{option} compares the models of both half sets and needs --policy {SAME_HALF} (it is {self.policy}). Leave "
                f"{option} out, or use --policy {SAME_HALF}."
            ]
        one_map = self.reference_fname and self.reference_half2_fname in (None, self.reference_fname)
        if self.used_evidence == MAP_ALONE and one_map:
            return [
                f"{option} compares the poses by two maps, and there is one. Give the map of half set 2 with "
                f"--reference_half2_fname, or leave {option} out."
            ]
        return []
