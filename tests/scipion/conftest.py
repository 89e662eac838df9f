"""Fixtures for tests with a real Scipion."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from installation import ROOT, Installation, install


@pytest.fixture(scope="session")
def scipion(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A configured Scipion with simulated particles in its folder `simulated`."""
    for name in ("scipion", "relion"):
        pytest.importorskip(name)
    pytest.importorskip("tkinter", reason="Scipion needs tkinter, which Debian has in python3-tk")
    return install(tmp_path_factory.mktemp("scipion"))


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Where pictures are kept for people to look at."""
    folder = Path(os.environ.get("CRYOPARES_ARTEFACTS", ROOT / ".artefacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
