"""A user looks at a trained model: python drive_viewers.py PROJECT PICTURES. Prints what was seen as JSON; 0 when all went well."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyworkflow as pw
from gui import Driver, Scenario, alive, drive, eye, windows

FIGURES = ("curves", "histogram", "error_map", "defocus", "confidence", "view_map")
seen: dict[str, Any] = {}


def scenario(driver: Driver, window: Any) -> Scenario:
    """A run that has left nothing yet, then one with a model."""
    from pyworkflow.gui.form import FormWindow

    project = window.viewWidget.project
    fresh = project.newProtocol(pw.Config.getDomain().getProtocols()["ProtCryoparesTrain"])
    project.saveProtocol(fresh)
    yield from sentences_before_the_first_epoch(driver, window, fresh)
    yield lambda: not alive(FormWindow)
    imported = next(run for run in project.getRuns() if run.getClassName() == "ProtCryoparesImportModel")
    yield from all_windows(driver, window, imported)
    seen["torch"] = "torch" in sys.modules
    sys.stdout.write(json.dumps(seen) + "\n")


def opened(driver: Driver, window: Any, run: Any) -> Any:
    """Analyze results, as its button does; the form comes when it is there."""
    from pyworkflow.gui.form import FormWindow

    driver.root.after(1, window.viewWidget._analyzeResults, run, None)
    return lambda: alive(FormWindow)


def sentences_before_the_first_epoch(driver: Driver, window: Any, run: Any) -> Scenario:
    """Each eye gives a sentence."""
    from pyworkflow.gui.dialog import Dialog
    from pyworkflow.gui.form import FormWindow

    yield opened(driver, window, run)
    form = alive(FormWindow)[0]
    for name in (*FIGURES, "gallery", "report", "tensorboard", "model"):
        driver.click(eye(form, name))
        yield lambda: alive(Dialog)
        seen[f"{name} before"] = text_of(alive(Dialog)[0])
        driver.picture(f"nothing_{name}") if name == "curves" else None
        alive(Dialog)[0].destroy()
        yield None
    form.close()


def all_windows(driver: Driver, window: Any, run: Any) -> Scenario:
    """Each eye opens its window; curves follow the run; TensorBoard answers and goes."""
    from pyworkflow.gui.form import FormWindow

    asked = time.perf_counter()
    yield opened(driver, window, run)
    seen["opened"] = time.perf_counter() - asked
    form = alive(FormWindow)[0]
    form.root.geometry("+20+20")
    yield None
    driver.picture("viewer")
    for name in (*FIGURES, "gallery", "model"):
        driver.click(eye(form, name))
        yield lambda: windows(form)
        shown = windows(form)[0]
        shown.geometry("+60+120")
        yield None
        yield None
        driver.picture(f"viewer_{name}")
        seen[name] = type(shown).__name__
        if name == "curves":
            yield from follows(shown, Path(run.getRunDir()))
        shown.destroy()
    driver.click(eye(form, "report"))
    yield lambda: (Path(run.getRunDir()) / "report.html").stat().st_mtime > seen["written"]
    driver.click(eye(form, "tensorboard"))
    yield lambda: windows(form)
    board = windows(form)[0]
    yield lambda: board.address.get() or board.board.problem()
    driver.picture("viewer_tensorboard")
    with urllib.request.urlopen(board.address.get(), timeout=20) as answer:
        seen["tensorboard"] = (answer.status, "TensorBoard" in answer.read().decode())
    form.close()
    yield lambda: not group_lives(board.board.process)
    seen["stopped"] = True


def follows(shown: Any, folder: Path) -> Scenario:
    """A new line of metrics.jsonl is drawn; a closed window looks no more."""
    before = shown.drawn
    metrics = next(iter(sorted(folder.glob("*/metrics.jsonl"))))
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines, json.dumps({**json.loads(lines[-1]), "epoch": len(lines) + 1})]) + "\n")
    seen["written"] = metrics.stat().st_mtime
    yield lambda: shown.drawn > before
    curve = shown.figure.axes[0].lines[0]
    seen["points"] = (len(lines), len(curve.get_xdata()))


def text_of(widget: Any) -> str:
    """What a message box says."""
    if widget.winfo_class() == "Text":
        return widget.get("1.0", "end").strip()
    own = [str(widget.cget("text"))] if widget.winfo_class() == "Label" else []
    return " ".join(text for text in [*own, *map(text_of, widget.winfo_children())] if text).strip()


def group_lives(process: Any) -> bool:
    """Whether any process of the group is left."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    drive(scenario)
