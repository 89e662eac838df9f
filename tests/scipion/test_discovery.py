"""Scipion finds the plugin and has nothing to complain of."""

import re
import sys

from installation import Installation

PLUGIN_NAMES = "import pyworkflow as pw; pw.Config.setDomain('pwem'); print(list(pw.Config.getDomain().getPlugins()))"


def test_scipion_lists_the_plugin_without_errors(scipion: Installation) -> None:
    listed = scipion.run(sys.executable, "-m", "scipion", "protocols")
    assert listed.returncode == 0, listed.stderr
    said = listed.stdout + listed.stderr
    complaints = [line for line in said.splitlines() if "cryopares" in line.lower() and re.search("warn|error|fail", line, re.I)]
    assert not complaints and "Traceback" not in said
    assert "ProtCryoparesTrain" in listed.stdout
    assert "cryopares_plugin" in scipion.run(sys.executable, "-c", PLUGIN_NAMES).stdout
