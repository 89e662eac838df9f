"""The real windows on a virtual screen, clicked as a user would. The pictures are kept."""

import sys
from pathlib import Path

import pytest
from gui import virtual_screen
from installation import Installation, project_with_particles, require

HERE = Path(__file__).parent
LONGEST_FORM_S = 1.0


@pytest.mark.timeout(600)
def test_training_from_the_tree_to_its_results(scipion: Installation, artefacts: Path) -> None:
    require("Xvfb", "xdotool", "import")
    project_with_particles(scipion, "clicked")
    pictures = artefacts / "training"
    with virtual_screen() as display:
        done = scipion.run(
            sys.executable, "-O", str(HERE / "drive_training.py"), "clicked", str(pictures), DISPLAY=display, timeout=500
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished CryoparesModel (C1, 32 px, 10.00 Å/px, half1, half2" in done.stdout
    assert "results: FigureWindow" in done.stdout
    opened = float(done.stdout.split("form opened in ")[1].split()[0])
    assert opened < LONGEST_FORM_S
    assert len(list(pictures.glob("*.png"))) >= 13
