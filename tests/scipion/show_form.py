"""Pictures of a protocol's form: python tests/scipion/show_form.py ProtCryoparesTrain FOLDER [PROJECT]

One picture for each tab, at the normal and the advanced level. Needs Scipion's environment variables and a screen; without PROJECT
a new one is made.
"""

import os
import sys
import time
from pathlib import Path

import pyworkflow as pw

sys.path.insert(0, str(Path(__file__).parent))
from gui import Driver, Scenario, alive


def scenario(driver: Driver, window: object, name: str) -> Scenario:
    """Open the form as a double click does, and go through its tabs."""
    from pyworkflow.gui.form import FormWindow

    cls = pw.Config.getDomain().getProtocols()[name]
    view = window.viewWidget  # type: ignore[attr-defined]
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
        notebook = next(child for child in _all_children(form.root) if child.winfo_class() == "TNotebook")
        for number, tab in enumerate(notebook.tabs()):
            notebook.select(tab)
            yield None
            form.adjustSize()
            yield None
            driver.picture(f"{name}_{text}_{number}_{notebook.tab(tab, 'text').strip()}")


def _all_children(widget: object) -> list:
    children = widget.winfo_children()  # type: ignore[attr-defined]
    return children + [inner for child in children for inner in _all_children(child)]


def main() -> None:
    """Open a project and take the pictures."""
    name, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    pw.Config.setDomain("pwem")
    from pyworkflow.gui.project.project import ProjectWindow
    from pyworkflow.project import Manager

    manager = Manager()
    project = sys.argv[3] if len(sys.argv) > 3 else "forms"
    if not manager.hasProject(project):
        manager.createProject(project)
    path = manager.getProjectPath(project)
    os.chdir(path)
    window = ProjectWindow(path)
    driver = Driver(window.root, folder)
    driver.start(scenario(driver, window, name))
    window.show()


if __name__ == "__main__":
    main()
