"""A user takes what the wizards propose: python drive_wizards.py PROJECT PICTURES. Prints the fields as JSON."""

import json
import sys
import time
from typing import Any

import pyworkflow as pw
from gui import Driver, Scenario, alive, drive

seen: dict[str, Any] = {}


def scenario(driver: Driver, window: Any) -> Scenario:
    """Each wand of the form, first without an input."""
    from pyworkflow.gui.dialog import Dialog
    from pyworkflow.gui.form import FormWindow

    project = window.viewWidget.project
    protocol = project.newProtocol(pw.Config.getDomain().getProtocols()["ProtCryoparesTrain"])
    driver.root.after(1, window.viewWidget._openProtocolForm, protocol)
    yield lambda: alive(FormWindow)
    form = alive(FormWindow)[0]
    form.root.geometry("+20+20")
    notebook = form.widgetDict["symmetry"].parent
    while notebook.winfo_class() != "TNotebook":
        notebook = notebook.master
    notebook.select(1)
    yield None
    driver.click(wand(form, "mask_radius_angs"))
    yield lambda: alive(Dialog)
    seen["without input"] = type(alive(Dialog)[0]).__name__
    alive(Dialog)[0].destroy()

    pointer = protocol.inputParticles
    pointer.set(project.getRuns()[0])
    pointer.setExtended("outputParticles")
    form.widgetDict["inputParticles"].set(pointer)
    for tab, name in ((1, "sampling_rate_angs_for_nnet"), (1, "mask_radius_angs"), (0, "symmetry")):
        notebook.select(tab)
        yield None
        asked = time.perf_counter()
        driver.click(wand(form, name))
        yield lambda: alive(Dialog)
        seen[f"{name} opened"] = time.perf_counter() - asked
        yield from use(driver, alive(Dialog)[0], name)
    notebook.select(1)
    yield None
    driver.picture("filled_in")
    names = ("sampling_rate_angs_for_nnet", "image_size_px_for_nnet", "mask_radius_angs", "symmetry")
    seen.update({name: getattr(protocol, name).get() for name in names})
    seen["torch"] = "torch" in sys.modules
    sys.stdout.write(json.dumps(seen) + "\n")


def use(driver: Driver, dialog: Any, name: str) -> Scenario:
    """Type, draw or choose, and take it."""
    from pyworkflow.gui.dialog import RESULT_YES

    if name == "symmetry":
        dialog.typed.set("Q3")
        dialog._handleResult(RESULT_YES)  # refused: the dialog stays
        seen["refused"] = str(dialog.verdict.cget("text"))
        dialog.table.selection_set("Dn")
        yield lambda: dialog.typed.get() == "D2"
        dialog.typed.set("d7")
    elif name == "mask_radius_angs":
        middle = dialog.canvas.winfo_width() // 2
        driver.click(dialog.canvas, at=(middle + middle // 2, middle))  # a quarter of the box
        yield None
    else:
        seen["guess"] = float(dialog.diameter.get())
        seen["notes"] = str(dialog.notes.cget("text"))
        dialog.diameter.set("200")
    yield None
    driver.picture(f"wizard_{name}")
    dialog._handleResult(RESULT_YES)
    yield None


def wand(form: Any, name: str) -> Any:
    """The button with the wand: before the last one, which is help."""
    return form.widgetDict[name].btnFrame.winfo_children()[-2]


if __name__ == "__main__":
    drive(scenario)
