"""A user at Scipion's real windows: clicks and keys by xdotool, pictures by ImageMagick, all on a virtual screen.

A scenario is a generator that runs beside Tk's own loop in the GUI's process. It yields between its actions: nothing to let the
windows settle, or a function to wait until that returns something true.
"""

import gc
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTLE_MS = 150
LONGEST_WAIT_S = 240.0
Scenario = Iterator[Callable[[], Any] | None]


@contextmanager
def virtual_screen(size: str = "1500x1000x24") -> Iterator[str]:
    """The name of an Xvfb display, which is gone afterwards."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


class Driver:
    """Runs one scenario, then ends the process: 0 when it came to its end, 1 when it waited in vain or failed."""

    def __init__(self, root: Any, pictures: Path):
        self.root, self.pictures = root, pictures
        pictures.mkdir(parents=True, exist_ok=True)

    def start(self, scenario: Scenario) -> None:
        """Begin as soon as the window stands."""
        self.root.after(4 * SETTLE_MS, self._step, scenario, None, 0.0)

    def _step(self, scenario: Scenario, awaited: Callable[[], Any] | None, since: float) -> None:
        try:
            if awaited is not None and not awaited():
                if time.monotonic() - since > LONGEST_WAIT_S:
                    raise TimeoutError(f"waited in vain in line {scenario.gi_frame.f_lineno}")  # type: ignore[attr-defined]
                self.root.after(SETTLE_MS, self._step, scenario, awaited, since)
                return
            self.root.after(SETTLE_MS, self._step, scenario, next(scenario), time.monotonic())
        except StopIteration:
            self._leave(0)
        except BaseException:
            traceback.print_exc()
            self.picture("failed")
            self._leave(1)

    def _leave(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def picture(self, name: str) -> None:
        """The whole screen as PNG."""
        self.root.update_idletasks()
        subprocess.run(["import", "-window", "root", "-depth", "8", str(self.pictures / f"{name}.png")], check=True)

    def click(self, widget: Any, times: int = 1, at: tuple[int, int] | None = None) -> None:
        """Press the left button in the middle of a widget, or `at` some pixels from its corner."""
        widget.update_idletasks()
        x, y = at or (widget.winfo_width() // 2, widget.winfo_height() // 2)
        place = [str(widget.winfo_rootx() + x), str(widget.winfo_rooty() + y)]
        _xdotool("mousemove", "--sync", *place, "click", "--repeat", str(times), "--delay", "80", "1")

    def click_row(self, tree: Any, item: str, times: int = 1) -> None:
        """Press on a row of a tree."""
        tree.see(item)
        tree.update_idletasks()
        x, y, width, height = tree.bbox(item)
        self.click(tree, times, (x + min(width, 60) // 2, y + height // 2))

    def replace_text(self, entry: Any, text: str) -> None:
        """Type into a text field, in place of what stands there."""
        self.click(entry)
        _xdotool("key", "ctrl+slash")  # selects all of it
        _xdotool("type", "--delay", "20", text)


def _xdotool(*words: str) -> None:
    subprocess.run(["xdotool", *words], check=True)


def alive(cls: type) -> list[Any]:
    """The windows or dialogs of a class that stand on the screen."""
    found = []
    for thing in gc.get_objects():
        if isinstance(thing, cls):
            window = getattr(thing, "root", thing)
            try:
                if window.winfo_exists() and window.winfo_viewable():
                    found.append(thing)
            except Exception:
                continue
    return found


def rows_of(tree: Any, parent: str = "") -> Iterator[tuple[str, str]]:
    """Item and text of all rows of a tree."""
    for item in tree.get_children(parent):
        yield item, tree.item(item, "text").strip()
        yield from rows_of(tree, item)


def eye(form: Any, name: str) -> Any:
    """The button that shows a line of a viewer's form."""
    return form.widgetDict[name].btnFrame.winfo_children()[0]


def windows(form: Any) -> list[Any]:
    """The windows that a form has opened."""
    return [child for child in form.root.winfo_children() if child.winfo_class() == "Toplevel" and child.winfo_viewable()]


def drive(scenario: Callable[[Driver, Any], Scenario]) -> None:
    """Open the window of a project and begin: the command line is `PROJECT PICTURES`."""
    name, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    import pyworkflow as pw

    pw.Config.setDomain("pwem")
    from pyworkflow.gui.project.project import ProjectWindow
    from pyworkflow.project import Manager

    path = Manager().getProjectPath(name)
    os.chdir(path)
    window = ProjectWindow(path)
    driver = Driver(window.root, folder)
    driver.start(scenario(driver, window))
    window.show()
