"""The form that "Analyze results" opens: Scipion's own, with an eye for each thing to see."""

import tkinter
from typing import Any, Dict, Sequence


def show_form(viewer: Any, name: str, items: Sequence[str], windows: Any) -> None:
    """Open the form of a viewer whose protocol is set.

    Parameters
    ----------
    name : of what is shown
    items : the parameters that have an eye
    windows : the window that it belongs to, if any
    """
    from pyworkflow.gui.form import FormWindow  # only with a GUI: it can't be the first of the GUI's modules to be imported

    eyes = dict.fromkeys(items, viewer._visualizeParam)
    master = windows or viewer.formWindow or _MainWindow()
    form = FormWindow(f"CryoPARES: {name}", viewer, None, master, visualizeDict=eyes, visualizeMode=True)
    viewer.formWindow, viewer._tkRoot, viewer.showInfo, viewer.showError = form, form.root, form.showInfo, form.showError
    form.show(center=True)


class _MainWindow:
    """Scipion's first window, for a viewer that is opened without one: a form without a parent ends Scipion when it is closed."""

    def __init__(self) -> None:
        self._images: Dict[str, Any] = {}

    def getRoot(self) -> Any:
        """The window itself; made where there is none yet."""
        return tkinter._default_root or tkinter.Tk()  # type: ignore[attr-defined]
