"""A user trains in the GUI: python drive_training.py PROJECT PICTURES. Ends with 0 when all went well."""

import sys
import time
from typing import Any

from gui import Driver, Scenario, alive, drive, eye, rows_of, windows
from installation import TINY


def buttons(widget: Any) -> dict[str, Any]:
    """The buttons below a widget by their text."""
    found = {}
    for child in widget.winfo_children():
        if child.winfo_class() in ("Button", "TButton", "Radiobutton") and child.winfo_viewable():
            found[str(child.cget("text"))] = child
        found.update(buttons(child))
    return found


def scenario(driver: Driver, window: Any) -> Scenario:
    """From the tree to Analyze results."""
    from pyworkflow.gui.dialog import Dialog, ListDialog
    from pyworkflow.gui.form import FormWindow

    view = window.viewWidget
    row = next(item for item, text in rows_of(view.protTree) if text == "CryoPARES train")
    yield None
    driver.picture("1_tree")
    driver.click_row(view.protTree, row, times=2)
    clicked = time.perf_counter()
    yield lambda: alive(FormWindow)
    sys.stdout.write(f"form opened in {time.perf_counter() - clicked:.2f} s\n")
    form = alive(FormWindow)[0]
    form.root.geometry("1200x860+20+20")  # all of the longest tab
    yield None
    driver.picture("2_form")

    pointer = form.widgetDict["inputParticles"]
    driver.click(pointer.btnFrame.winfo_children()[0])
    yield lambda: alive(ListDialog)
    chooser = alive(ListDialog)[0]
    yield lambda: chooser.tree.get_children()
    leaf = list(rows_of(chooser.tree))[-1][0]
    driver.click_row(chooser.tree, leaf)
    yield None
    driver.picture("3_choose_particles")
    driver.click(buttons(chooser)["Select"])
    yield lambda: form.protocol.inputParticles.get() is not None

    for name, text in (("n_epochs", "2"), ("batch_size", "16")):
        driver.replace_text(form.widgetDict[name].content.winfo_children()[0], text)
        yield None
    driver.click(buttons(form.root)["Advanced"])
    yield lambda: form.protocol.expertLevel.get() > 0
    notebook = form.widgetDict["extra_settings"].parent
    while notebook.winfo_class() != "TNotebook":
        notebook = notebook.master
    for number in range(notebook.index("end")):
        notebook.select(number)
        yield None
        driver.picture(f"4_tab_{number}")
    notebook.select(0)
    yield None
    driver.replace_text(form.widgetDict["extra_settings"].content.winfo_children()[0], TINY)
    yield lambda: form.protocol.extra_settings.get() == TINY
    form.widgetDict["numberOfThreads"].set("1")
    driver.picture("5_filled_in")

    driver.click(form.btnExecute)
    yield lambda: alive(Dialog)
    driver.picture("6_warnings")
    driver.click(buttons(alive(Dialog)[0])["Yes"])
    yield lambda: not alive(FormWindow)
    yield lambda: _training(view.project).isRunning()
    yield lambda: _training(view.project).isFinished() or _training(view.project).isFailed()
    run = _training(view.project)
    sys.stdout.write(f"{run.getStatus()} {getattr(run, 'outputModel', None)} {run.getErrorMessage()}\n")
    window.viewWidget.refreshRuns()
    yield None
    view._selectItemProtocol(run)
    yield None
    driver.picture("7_finished")
    driver.click(view.btnAnalyze)
    yield lambda: alive(FormWindow)
    results = alive(FormWindow)[0]
    results.root.geometry("+20+20")
    yield None
    driver.picture("8_analyze_results")
    driver.click(eye(results, "curves"))
    yield lambda: windows(results)
    windows(results)[0].geometry("+60+120")
    yield None
    yield None
    driver.picture("9_learning_curves")
    sys.stdout.write(f"results: {type(windows(results)[0]).__name__}\n")


def _training(project: Any) -> Any:
    """The run that was started, as it stands in its own database."""
    run = next(run for run in project.getRuns() if run.getClassName() == "ProtCryoparesTrain")
    project._updateProtocol(run)
    return run


if __name__ == "__main__":
    drive(scenario)
