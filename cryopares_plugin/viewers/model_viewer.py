"""The properties of a trained model."""

import os
import tkinter as tk
from tkinter import ttk
from typing import Any, Dict, List, Optional, Tuple

from pyworkflow.viewer import Viewer

from cryopares_plugin.objects import CryoparesModel, model_cards

Rows = List[Tuple[str, str]]
UNKNOWN = "not known"


class CryoparesModelViewer(Viewer):
    """A table of what the model is and expects."""

    _label = "CryoPARES model"
    _name = "CryoPARES model"
    _targets = [CryoparesModel]  # noqa: RUF012 -- Scipion's own convention

    def visualize(self, obj: Any, **_: Any) -> None:
        """Open the table."""
        ModelWindow(self._tkRoot, obj)


class ModelWindow(tk.Toplevel):
    """Names left, values right; values can be copied."""

    def __init__(self, parent: Any, model: CryoparesModel):
        super().__init__(parent, background="white", padx=14, pady=12)
        self.title(f"CryoPARES model - {os.path.basename(os.path.dirname(os.path.dirname(model.getPath())))}")
        self.rows = properties(model)
        for number, (name, value) in enumerate(self.rows):
            tk.Label(self, text=name, background="white", foreground="#555555", anchor="w").grid(row=number, column=0, sticky="w")
            self._value(value).grid(row=number, column=1, sticky="we", padx=(18, 0), pady=2)
        self.columnconfigure(1, weight=1)
        ttk.Button(self, text="Close", command=self.destroy).grid(row=len(self.rows), column=1, sticky="e", pady=(12, 0))
        self.bind("<Escape>", lambda _: self.destroy())
        self.protocol("WM_DELETE_WINDOW", self.destroy)

    def _value(self, text: str) -> tk.Entry:
        """A line that cannot be changed but marked and copied."""
        entry = tk.Entry(self, width=max(46, min(80, len(text))), relief="flat", readonlybackground="white", highlightthickness=0)
        entry.insert(0, text)
        entry.configure(state="readonly")
        return entry


def properties(model: CryoparesModel) -> Rows:
    """Names and values for the user, with units, read from the model and its folder."""
    cards = model_cards(model.getPath())
    first: Dict[str, Any] = next(iter(cards.values()), {})
    pictures = first.get("config", {}).get("datamanager", {}).get("particlesDataset", {})
    network = first.get("config", {}).get("models", {}).get("image2sphere", {})
    box, pixel = model.getBoxSize(), model.getSamplingRate()
    radius = pictures.get("mask_radius_angs") or (box * pixel / 2 if box and pixel else None)
    rows = [
        ("Symmetry", model.getSymmetry() or UNKNOWN),
        ("Pixel size", _number(pixel, "{:.3g} Å")),
        ("Box", f"{box} px, {box * pixel:.0f} Å" if box and pixel else UNKNOWN),
        ("Mask radius", _number(radius, "{:.0f} Å")),
        ("CTF correction", str(pictures.get("ctf_correction", UNKNOWN)).replace("_", " ")),
        ("Network", _network(network)),
    ]
    return [*rows, *(_half_row(name, card) for name, card in cards.items()), ("Folder", os.path.abspath(model.getPath()))]


def _network(settings: Dict[str, Any]) -> str:
    if not settings:
        return UNKNOWN
    name = settings.get("imageencoder", {}).get("resnet", {}).get("resnetName")
    return f"{name or 'U-Net'}, lmax {settings.get('lmax')}"


def _half_row(name: str, card: Dict[str, Any]) -> Tuple[str, str]:
    """A half set's particles and the errors of its best epoch."""
    training = card.get("training", {})
    best = training.get("best", {})
    parts = [
        _number(training.get("n_train"), "trained on {:,} particles", ""),
        _number(training.get("epochs"), "{} epochs", ""),
        _number(best.get("val_geo_degs"), "error mean {:.1f}°", ""),
        _number(best.get("val_median_geo_degs"), "median {:.1f}°", ""),
    ]
    return f"Model of {name}", ", ".join(part for part in parts if part) or UNKNOWN


def _number(value: Optional[float], pattern: str, otherwise: str = UNKNOWN) -> str:
    return otherwise if value is None else pattern.format(value)
