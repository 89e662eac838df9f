"""The files of a run folder, read so that what is missing, cut off or damaged counts as not there yet."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

Columns = Dict[str, np.ndarray]
Epoch = Dict[str, Any]


def read_metrics(path: Union[str, Path]) -> List[Epoch]:
    """The epochs of a `metrics.jsonl`, oldest first; a last line that was cut off is left out, as is a file that is missing."""
    epochs: List[Epoch] = []
    for line in read_lines(Path(path)):
        try:
            epoch = json.loads(line)
        except ValueError:
            break
        if not isinstance(epoch, dict) or "epoch" not in epoch:
            break
        epochs.append(epoch)
    return epochs


def read_lines(path: Path) -> List[str]:
    """The lines of a text file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def read_json(path: Path) -> Dict[str, Any]:
    """The object in a JSON file; an empty one where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_columns(path: Path, names: Tuple[str, ...]) -> Optional[Columns]:
    """The number columns of a CSV file, which come first in it; None where it cannot be read. Empty cells are nan."""
    lines = read_lines(path)
    if len(lines) < 2 or not lines[0].startswith(",".join(names)):
        return None
    try:
        rows = [[float(cell or "nan") for cell in line.split(",", len(names))[: len(names)]] for line in lines[1:]]
        table = np.array(rows, dtype=np.float64)
    except ValueError:
        return None
    return dict(zip(names, table.T)) if table.ndim == 2 and table.shape[1] == len(names) else None
