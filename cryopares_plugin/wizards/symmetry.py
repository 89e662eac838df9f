"""Choosing a point group."""

import tkinter as tk
from tkinter import ttk
from typing import Any, List, Tuple

from pyworkflow.gui.dialog import RESULT_CANCEL, RESULT_YES, Dialog

from cryopares_core.config.point_groups import group_name
from cryopares_core.errors import UserError

# Group, what is proposed when it is chosen, and what it is.
GROUPS: List[Tuple[str, str, str]] = [
    ("C1", "C1", "No symmetry. Most ribosomes, complexes with a single copy of each part."),
    ("Cn", "C2", "One n-fold axis, along z. C4: many ion channels; C5: pentameric receptors."),
    (
        "Dn",
        "D2",
        "An n-fold axis along z and 2-fold axes across it, one of them x. D2: beta-galactosidase; D7: GroEL, 20S proteasome.",
    ),
    ("T", "T", "Tetrahedral: a 3-fold axis along z. Rare."),
    ("O", "O", "Octahedral: a 4-fold axis along z. Apoferritin."),
    ("I", "I", "Icosahedral, RELION's I2: a 2-fold axis along z, a 5-fold axis in the xz plane. Many viruses."),
]
NOTE = (
    "Axes are those of RELION. Poses of a refinement with other axes (I1, I3) must be turned first, for instance by refining again "
    "in I2."
)


class SymmetryDialog(Dialog):
    """A list of point groups, and a field for the one that is wanted; `group` is that when the dialog was not cancelled."""

    def __init__(self, parent: Any, text: str):
        self.group = text
        super().__init__(parent, "Symmetry", buttons=[("Use it", RESULT_YES), ("Cancel", RESULT_CANCEL)], default="Use it")

    def body(self, master: Any) -> None:
        """Called by Scipion when the window is made."""
        self.table = ttk.Treeview(master, columns=("meaning",), height=len(GROUPS), selectmode="browse")
        self.table.heading("#0", text="Group", anchor="w")
        self.table.heading("meaning", text="What it is", anchor="w")
        self.table.column("#0", width=70, stretch=False)
        self.table.column("meaning", width=800)
        for name, _, meaning in GROUPS:
            self.table.insert("", "end", name, text=name, values=(meaning,))
        self.table.grid(row=0, column=0, columnspan=3, padx=8, pady=8, sticky="we")
        self.table.bind("<<TreeviewSelect>>", self._chosen)
        self.typed = tk.StringVar(self, self.group)
        tk.Label(master, text="Symmetry of the particle").grid(row=1, column=0, padx=8, sticky="w")
        tk.Entry(master, textvariable=self.typed, width=8).grid(row=1, column=1, padx=4, sticky="w")
        self.verdict = tk.Label(master, anchor="w", justify="left", wraplength=620)
        self.verdict.grid(row=1, column=2, padx=8, sticky="w")
        tk.Label(master, text=NOTE, wraplength=870, justify="left", foreground="#555555").grid(
            row=2, column=0, columnspan=3, padx=8, pady=(10, 0), sticky="w"
        )
        master.columnconfigure(2, weight=1)
        self.typed.trace_add("write", lambda *_: self._check())
        self._check()

    def validate(self) -> bool:
        """Whether a point group is typed; Scipion asks when the user is done."""
        return self._check()

    def _chosen(self, _: Any) -> None:
        """Take the row's group, but keep the user's own number of a family: C5 when Cn is chosen."""
        row = self.table.selection()[0]
        if family(self.typed.get()) != row:
            self.typed.set(next(proposed for name, proposed, _ in GROUPS if name == row))

    def _check(self) -> bool:
        try:
            self.group = group_name(self.typed.get())
        except UserError as error:
            self.verdict.configure(text=error.problems[0].replace("symmetry: ", ""), foreground="#a02020")
            return False
        self.verdict.configure(text=f"{self.group}: {same_views(self.group)}", foreground="#1d6b3f")
        row = family(self.group)
        if self.table.selection() != (row,):
            self.table.selection_set(row)
        return True


def family(text: str) -> str:
    """The row of the list that a group belongs to; empty where it is none."""
    try:
        name = group_name(text)
    except UserError:
        return ""
    return name if name in ("C1", "T", "O", "I") else f"{name[0]}n"


def same_views(group: str) -> str:
    """What the group's order means, in words."""
    order = {"T": 12, "O": 24, "I": 60}.get(group) or int(group[1:]) * (2 if group[0] == "D" else 1)
    return "each direction shows another view." if order == 1 else f"each view is seen from {order} directions."
