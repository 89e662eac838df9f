"""Imports go one way through the core, and what Scipion opens stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A layer may import itself and those before it; errors and files are one.
LAYERS = [
    "errors",
    "files",
    "allocator",
    "memory",
    "machine",
    "progress",
    "scratch",
    "shards",
    "config",
    "plots",
    "geometry",
    "particles",
    "model",
    "volumes",
    "refinement",
    "search",
    "training",
    "inference",
    "commands",
]
RANK = {name: max(rank, 1) for rank, name in enumerate(LAYERS)}
HEAVY = {"torch", "numpy", "pandas", "scipy", "lightning", "matplotlib", "healpy", "starfile", "mrcfile"}
LIGHT_FILES = [
    ROOT / "cryopares_core" / "__init__.py",
    ROOT / "cryopares_core" / "errors.py",
    ROOT / "cryopares_core" / "progress.py",
    ROOT / "cryopares_core" / "memory.py",
    ROOT / "cryopares_core" / "scratch.py",
    *(ROOT / "cryopares_core" / "config").rglob("*.py"),
    *(ROOT / "cryopares_core" / "commands").rglob("*.py"),
    ROOT / "cryopares_workflow.py",
    *(ROOT / "cryopares_plugin").rglob("*.py"),
]
# Pictures of a run are drawn in Scipion's environment too: numpy, and matplotlib when something is drawn.
PLOT_FILES = sorted((ROOT / "cryopares_core" / "plots").rglob("*.py"))
CORE_FILES = sorted((ROOT / "cryopares_core").rglob("*.py"))
PLUGIN_FILES = sorted((ROOT / "cryopares_plugin").rglob("*.py"))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full dotted names of the modules that the nodes import; `from a import b` gives a.b, which may be a module."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: all but the insides of functions and of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        only_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not only_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_import_time(child)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT / "cryopares_core").parts[0].removesuffix(".py")


def upward(path: Path, names: set[str]) -> list[str]:
    """Those of the names that stand above the file's own layer."""
    layers = {name: name.split(".")[1] for name in names if name.startswith("cryopares_core.")}
    return [name for name, layer in layers.items() if layer in RANK and RANK[layer] > RANK[layer_of(path)]]


def test_every_part_of_the_core_has_a_layer() -> None:
    assert {layer_of(path) for path in CORE_FILES} - {"__init__"} <= set(LAYERS)


def test_the_check_sees_lazy_and_plain_imports() -> None:
    path = ROOT / "cryopares_core" / "geometry" / "x.py"
    tree = ast.parse("def f():\n    from cryopares_core import model\n    import cryopares_core.particles.star\n    import torch\n")
    assert sorted(upward(path, imported(ast.walk(tree)))) == ["cryopares_core.model", "cryopares_core.particles.star"]
    assert imported(at_import_time(tree)) == set()
    assert imported(at_import_time(ast.parse("if True:\n    import torch"))) == {"torch"}


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    names = imported(ast.walk(parse(path)))
    assert not {name.split(".")[0] for name in names} & {"pyworkflow", "pwem", "cryopares_plugin", "e3nn"}
    if layer_of(path) != "__init__":
        assert not upward(path, names)


@pytest.mark.parametrize("path", LIGHT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_light_files_import_nothing_heavy(path: Path) -> None:
    # Scipion itself imports these two before any plugin.
    forbidden = HEAVY - {"numpy", "mrcfile"} if path in PLUGIN_FILES else HEAVY
    assert not {name.split(".")[0] for name in imported(at_import_time(parse(path)))} & forbidden


@pytest.mark.parametrize("path", PLOT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pictures_need_only_numpy_and_matplotlib(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(ast.walk(parse(path)))} & (HEAVY - {"numpy", "matplotlib"})
    assert not {name.split(".")[0] for name in imported(at_import_time(parse(path)))} & (HEAVY - {"numpy"})


@pytest.mark.parametrize("path", [*LIGHT_FILES, *PLOT_FILES], ids=lambda path: str(path.relative_to(ROOT)))
def test_light_files_are_python_38(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_plugin_knows_only_the_light_core(path: Path) -> None:
    names = {name for name in imported(ast.walk(parse(path))) if name.startswith("cryopares_core")}
    light = ("config", "plots", "errors", "progress", "__version__")
    allowed = tuple(f"cryopares_core.{name}" for name in light)
    assert all(name.startswith(allowed) for name in names)
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(parse(path))), "-O strips assert"


@pytest.mark.parametrize(
    "module",
    [
        "cryopares_plugin",
        "cryopares_plugin.headless.command",
        "cryopares_core.config.show",
        "cryopares_core.commands.train",
        "cryopares_core.commands.simulate",
        "cryopares_core.commands.check",
        "cryopares_core.commands.refine",
        "cryopares_core.commands.infer",
        "cryopares_core.commands.reconstruct",
        "cryopares_core.commands.compare_poses",
    ],
)
def test_importing_brings_no_torch(module: str) -> None:
    if module.startswith("cryopares_plugin"):
        pytest.importorskip("pwem")
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
