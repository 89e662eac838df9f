"""Named bundles of settings to start from, under those of a file and of the command line."""

from typing import Dict, Tuple

GUIDE = "guide"
# benchmarks/RESULTS.md has the runs that these come from.
RECIPES: Dict[str, Tuple[str, ...]] = {
    GUIDE: (),
    "fast": ("train.learning_rate=5e-3",),
}
