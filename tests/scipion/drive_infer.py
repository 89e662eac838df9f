"""A user fills in "CryoPARES infer" and looks at its results: python drive_infer.py PROJECT PICTURES. Prints what was seen."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyworkflow as pw
from drive_viewers import opened, text_of
from gui import Driver, Scenario, alive, drive, eye, rows_of, windows

FIGURES = ("confidence", "views", "fsc", "slices")
seen: dict[str, Any] = {}


def scenario(driver: Driver, window: Any) -> Scenario:
    """The form, a run that has found nothing yet, and one that is finished."""
    project = window.viewWidget.project
    yield from form(driver, window)
    fresh = project.newProtocol(pw.Config.getDomain().getProtocols()["ProtCryoparesInfer"])
    project.saveProtocol(fresh)
    yield from sentences(driver, window, fresh)
    run = next(run for run in project.getRuns() if run.getClassName() == "ProtCryoparesInfer" and run.isFinished())
    yield from figures(driver, window, run)
    seen["torch"] = "torch" in sys.modules
    sys.stdout.write(json.dumps(seen) + "\n")


def form(driver: Driver, window: Any) -> Scenario:
    """From the tree; fields come and go with the choices that they belong to."""
    from pyworkflow.gui.form import FormWindow

    tree = window.viewWidget.protTree
    row = next(item for item, text in rows_of(tree) if text == "CryoPARES infer")
    yield None
    driver.click_row(tree, row, times=2)
    clicked = time.perf_counter()
    yield lambda: alive(FormWindow)
    seen["form opened"] = time.perf_counter() - clicked
    shown = alive(FormWindow)[0]
    shown.root.geometry("1100x700+20+20")
    yield None
    driver.picture("infer_form")
    notebook = shown.widgetDict["refine"].parent
    while notebook.winfo_class() != "TNotebook":
        notebook = notebook.master
    for number in range(1, notebook.index("end")):
        notebook.select(number)
        yield None
        if number == 1:
            seen["resolution before"] = bool(shown.widgetDict["resolution_angs"].content.winfo_viewable())
            for name in ("refine", "reconstruct"):
                driver.click(shown.widgetDict[name].content.winfo_children()[0].winfo_children()[0])
                yield None
            seen["resolution after"] = bool(shown.widgetDict["resolution_angs"].content.winfo_viewable())
        driver.picture(f"infer_tab_{number}")
    shown.close()
    yield lambda: not alive(FormWindow)


def sentences(driver: Driver, window: Any, run: Any) -> Scenario:
    """Each eye of a run that has found nothing gives a sentence."""
    from pyworkflow.gui.dialog import Dialog
    from pyworkflow.gui.form import FormWindow

    yield opened(driver, window, run)
    shown = alive(FormWindow)[0]
    for name in (*FIGURES, "calibration", "report"):
        driver.click(eye(shown, name))
        yield lambda: alive(Dialog)
        seen[f"{name} before"] = text_of(alive(Dialog)[0])
        alive(Dialog)[0].destroy()
        yield None
    shown.close()
    yield lambda: not alive(FormWindow)


def figures(driver: Driver, window: Any, run: Any) -> Scenario:
    """Each eye of a finished run opens its window; the report is written."""
    from pyworkflow.gui.dialog import Dialog
    from pyworkflow.gui.form import FormWindow

    yield opened(driver, window, run)
    shown = alive(FormWindow)[0]
    shown.root.geometry("+20+20")
    yield None
    driver.picture("infer_viewer")
    for name in FIGURES:
        driver.click(eye(shown, name))
        yield lambda: windows(shown)
        yield from one_figure(driver, windows(shown)[0], name)
    driver.click(eye(shown, "calibration"))
    yield lambda: alive(Dialog)
    seen["calibration"] = text_of(alive(Dialog)[0])
    alive(Dialog)[0].destroy()
    driver.click(eye(shown, "report"))
    yield lambda: Path(run._getExtraPath("report.html")).is_file()
    seen["report"] = Path(run._getExtraPath("report.html")).read_text().count("data:image/png")


def one_figure(driver: Driver, window: Any, name: str) -> Scenario:
    """Look at a window, and close it."""
    window.geometry("+60+120")
    yield None
    yield None
    seen[name], seen["status"] = len(window.figure.axes), str(window.status.cget("text"))
    driver.picture(f"infer_{name}")
    window.destroy()


if __name__ == "__main__":
    drive(scenario)
