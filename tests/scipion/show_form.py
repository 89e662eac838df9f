"""Pictures of a protocol's form: python tests/scipion/show_form.py ProtCryoparesTrain FOLDER [PROJECT]

One picture for each tab, at the normal and the advanced level. Needs Scipion's environment variables and a screen; without PROJECT
a new one is made.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyworkflow as pw

sys.path.insert(0, str(Path(__file__).parent))
from gui import Driver, Scenario, alive, descendants, drive_project


def scenario(name: str, driver: Driver, window: Any) -> Scenario:
    """Open the form as a double click does, and go through its tabs."""
    from pyworkflow.gui.form import FormWindow

    cls = pw.Config.getDomain().getProtocols()[name]
    view = window.viewWidget
    started = time.perf_counter()
    driver.root.after(1, view._openProtocolForm, view.project.newProtocol(cls))  # it comes back when the form is closed
    yield lambda: alive(FormWindow)
    form = alive(FormWindow)[0]
    sys.stdout.write(f"{name}: form opened in {time.perf_counter() - started:.2f} s\n")
    form.root.geometry("+20+20")
    yield None
    for level, text in ((0, "normal"), (5, "advanced")):
        form.protocol.expertLevel.set(level)
        form._onExpertLevelChanged()
        notebook = next(child for child in descendants(form.root) if child.winfo_class() == "TNotebook")
        for number, tab in enumerate(notebook.tabs()):
            notebook.select(tab)
            yield None
            form.adjustSize()
            yield None
            driver.picture(f"{name}_{text}_{number}_{notebook.tab(tab, 'text').strip()}")


if __name__ == "__main__":
    name, folder, *project = sys.argv[1:]
    drive_project(project[0] if project else "forms", Path(folder).absolute(), partial(scenario, name))
