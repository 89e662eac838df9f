"""The names that a user types, the versions, and the plugin inside a real Scipion."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cryopares_core

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION = "scipion-em-cryopares"
MODULES = sorted(path.stem for path in ROOT.glob("cryopares_*.py") if path.stem != "cryopares_workflow")


def run(*command: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([*command], capture_output=True, text=True, timeout=120, **kwargs)


def setup_answer(question: str) -> str:
    """What setup.py itself says, such as its version."""
    done = run(sys.executable, "setup.py", "--quiet", question, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{DISTRIBUTION} is not installed in this environment")


def test_one_version_everywhere(distribution: importlib.metadata.Distribution) -> None:
    assert setup_answer("--version") == cryopares_core.__version__ == distribution.version
    assert (ROOT / "CHANGES.txt").read_text(encoding="utf-8").startswith(cryopares_core.__version__)


def test_entry_points(distribution: importlib.metadata.Distribution) -> None:
    points = {(point.group, point.name): point for point in distribution.entry_points}
    assert points["pyworkflow.plugin", "cryopares_plugin"].value == "cryopares_plugin"
    for module in MODULES:
        assert callable(points["console_scripts", module].load())


def test_scipions_installer_finds_the_plugin(distribution: importlib.metadata.Distribution) -> None:
    """It takes the first name of the distribution for the plugin's module."""
    pytest.importorskip("pwem")
    first = (distribution.read_text("top_level.txt") or "").split()[0]
    assert first == "cryopares" and issubclass(importlib.import_module(first).Plugin, importlib.import_module("pwem").Plugin)


def test_base_installation_is_light(distribution: importlib.metadata.Distribution) -> None:
    always = [text for text in distribution.requires or [] if "extra ==" not in text]
    assert [re.split(r"[<>=]", text)[0] for text in always] == ["omegaconf"]


@pytest.mark.parametrize("module", MODULES)
def test_modules_run_as_in_the_guide(module: str) -> None:
    done = run(sys.executable, "-m", module, "--help", cwd=ROOT)
    assert done.returncode == 0 and module in done.stdout


def test_readme_commands_are_in_the_makefile() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_documents_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_without_the_core_a_command_says_what_to_install(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['torch'] = None; from cryopares_core.commands.simulate import main; "
    done = run(sys.executable, "-c", hide + "sys.exit(main(['--phantom', '--out_dir', 'out']))", cwd=tmp_path, env=environment())
    assert done.returncode == 2
    assert "scipion-em-cryopares[core]" in done.stderr and "Traceback" not in done.stderr


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.parametrize(
    "hidden, named, expected",
    [
        ("", ". /c/bin/activate", "{python} -m m"),
        ("torch", ". /c/bin/activate;", "unset PYTHONPATH PYTHONHOME; . /c/bin/activate && python -m m"),
        ("torch", "", "None"),
    ],
)
def test_the_core_runs_here_or_where_the_user_says(tmp_path: Path, hidden: str, named: str, expected: str) -> None:
    pytest.importorskip("pwem")
    code = f"""if True:
        import sys
        sys.modules[{hidden!r}] = None
        from cryopares_plugin import Plugin
        Plugin._defineVariables()
        print(Plugin.getActivation() is not None and Plugin.getProgram("m"), Plugin.validateInstallation())"""
    variables = environment(CRYOPARES_ENV_ACTIVATION=named, EM_ROOT=str(tmp_path))
    said = run(sys.executable, "-O", "-c", code, env=variables).stdout.strip().splitlines()[-1]
    if expected == "None":
        assert said.startswith("False") and "scipion installb cryopares" in said
    else:
        assert said == expected.format(python=sys.executable) + " []"
