"""TensorBoard for one run, which never outlives its window."""

import os
import re
import subprocess
import tempfile
import time
import tkinter as tk
from tkinter import ttk
from typing import Any

from cryopares_plugin import Plugin
from cryopares_plugin.viewers.pages import open_page

LOOK_EVERY_MS = 300
LONGEST_START_S = 120.0
ADDRESS = re.compile(r"http://\S+:\d+/")
# `cat` reads from a pipe whose other end is the GUI's. It closes when the window or the GUI ends, in whatever way, and then all
# that was started goes, first asked and a second later not. It also goes when TensorBoard ends by itself.
GUARD = "({command}; kill -KILL 0) < /dev/null & trap '' TERM; cat > /dev/null; kill -TERM 0; sleep 1; kill -KILL 0"


class TensorBoard:
    """A TensorBoard process in the core's environment, on a free port, reached from this machine alone.

    Parameters
    ----------
    folder : the run folder
    program : the shell words that start TensorBoard, without its options
    """

    def __init__(self, folder: str, program: str):
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        command = f"{program} --logdir . --host 127.0.0.1 --port 0"
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", GUARD.format(command=command)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started = time.monotonic()

    def address(self) -> str:
        """Where it answers; empty until it does."""
        found = ADDRESS.search(self._text())
        return found.group() if found and self.process.poll() is None else ""

    def problem(self) -> str:
        """Why it won't come up, in one sentence; empty as long as it may."""
        if self.process.poll() is not None:
            last = (self._text().strip().splitlines() or ["it said nothing"])[-1]
            return f"TensorBoard could not be started: {last}"
        if not self.address() and time.monotonic() - self._started > LONGEST_START_S:
            return f"TensorBoard has not answered for {LONGEST_START_S:.0f} s. Is the machine very busy? Try again later."
        return ""

    def stop(self) -> None:
        """Stop it; comes back at once."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.poll()

    def _text(self) -> str:
        """What it has printed. The file is the process's own, so its place is not moved: it is read by position."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode("utf-8", errors="replace")


class TensorBoardWindow(tk.Toplevel):
    """Starts TensorBoard, opens it in the browser, and stops it when it is closed."""

    def __init__(self, parent: Any, folder: str):
        super().__init__(parent, background="white", padx=16, pady=14)
        self.title("TensorBoard")
        self.protocol("WM_DELETE_WINDOW", self.destroy)
        self.text = tk.Label(self, background="white", justify="left", anchor="w", wraplength=520, text="TensorBoard is starting …")
        self.text.pack(fill="x")
        self.address = tk.Entry(self, width=44, relief="flat", readonlybackground="#f0f4f8", highlightthickness=0, state="readonly")
        buttons = tk.Frame(self, background="white")
        buttons.pack(side="bottom", fill="x", pady=(12, 0))
        ttk.Button(buttons, text="Stop and close", command=self.destroy).pack(side="right")
        self.open_button = ttk.Button(buttons, text="Open in the browser", command=self._open, state="disabled")
        self.open_button.pack(side="right", padx=8)
        self.board = TensorBoard(folder, Plugin.getProgram("tensorboard.main"))
        self._timer = self.after(LOOK_EVERY_MS, self._look)

    def destroy(self) -> None:
        """Close the window and stop TensorBoard."""
        self.after_cancel(self._timer)
        self.board.stop()
        super().destroy()

    def _look(self) -> None:
        """Wait for the address or a failure; later only for a failure."""
        problem, known = self.board.problem(), self.address.get()
        if problem:
            self.text.configure(text=problem, foreground="#a02020")
            self.open_button.configure(state="disabled")
            return
        if self.board.address() and not known:
            self._show_address()
        self._timer = self.after(LOOK_EVERY_MS if not known else 10 * LOOK_EVERY_MS, self._look)

    def _show_address(self) -> None:
        self.text.configure(text="TensorBoard runs on this machine, until this window or the viewer is closed. Its address:")
        self.address.configure(state="normal")
        self.address.insert(0, self.board.address())
        self.address.configure(state="readonly")
        self.address.pack(anchor="w", pady=(8, 0), ipady=4, ipadx=4)
        self.open_button.configure(state="normal")
        self._open()

    def _open(self) -> None:
        problem = open_page(self.board.address())
        if problem:
            self.text.configure(text="TensorBoard runs. No web browser was found on this machine; open this address yourself:")
