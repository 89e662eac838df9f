"""The dialogs of the wizards that show particles."""

import tkinter as tk
from typing import Any, Dict, Optional

from pyworkflow.gui.dialog import RESULT_CANCEL, RESULT_YES, Dialog

from cryopares_core.config.advice import Proposal, propose, remarks, step_bytes, store_bytes
from cryopares_core.progress import size_text
from cryopares_plugin.wizards.average import Average, guess_diameter_angs
from cryopares_plugin.wizards.canvas import ParticleCanvas

BUTTONS = [("Use these", RESULT_YES), ("Cancel", RESULT_CANCEL)]
TEXT_WIDTH_PX = 400


class ParticleDialog(Dialog):
    """An average particle left; what a subclass adds right. `values` are the user's when the dialog was not cancelled."""

    explanation = ""

    def __init__(self, parent: Any, title: str, average: Average):
        self.average = average
        self.values: Dict[str, float] = {}
        super().__init__(parent, title, buttons=BUTTONS, default="Use these")

    def body(self, master: Any) -> None:
        """Called by Scipion when the window is made."""
        self.canvas = ParticleCanvas(master, self.average, self._radius_drawn)
        self.canvas.grid(row=0, column=0, padx=8, pady=(8, 2), sticky="n")
        tk.Label(master, text=_caption(self.average), foreground="#555555").grid(row=1, column=0, padx=8, sticky="w")
        self.right = tk.Frame(master)
        self.right.grid(row=0, column=1, rowspan=2, padx=10, pady=8, sticky="n")
        tk.Label(self.right, text=self.explanation, wraplength=TEXT_WIDTH_PX, justify="left").grid(columnspan=2, sticky="w")
        self.notes = tk.Label(self.right, wraplength=TEXT_WIDTH_PX, justify="left", anchor="w")
        self._add_fields()
        self.notes.grid(columnspan=2, sticky="w", pady=(12, 0))
        self.update_notes()

    def add_number(self, label: str, value: float, changed: Any) -> tk.StringVar:
        """A number that can be typed; `changed()` is called at each key."""
        variable = tk.StringVar(self, f"{value:g}")
        row = self.right.grid_size()[1]
        tk.Label(self.right, text=label).grid(row=row, column=0, sticky="w", pady=(8, 0))
        tk.Entry(self.right, textvariable=variable, width=10).grid(row=row, column=1, sticky="e", pady=(8, 0))
        variable.trace_add("write", lambda *_: changed())
        return variable

    def validate(self) -> bool:
        """Whether all fields hold numbers; Scipion asks when the user is done."""
        return bool(self.values)

    def _add_fields(self) -> None:
        raise NotImplementedError

    def _radius_drawn(self, radius_angs: float) -> None:
        raise NotImplementedError

    def update_notes(self) -> None:
        """Bring the drawing, the notes and `values` up to date with the fields."""
        raise NotImplementedError


class MaskDialog(ParticleDialog):
    """The radius of the mask, drawn over the particle."""

    explanation = (
        "The mask hides what lies around the particle from the network. Draw its radius with the mouse or type it: as tight as "
        "you can, with a little room for the particle's longest side in any view."
    )

    def __init__(self, parent: Any, average: Average, radius_angs: Optional[float]):
        self.first_radius = radius_angs or propose_for(average).mask_radius_angs
        super().__init__(parent, "Mask radius", average)

    def _add_fields(self) -> None:
        self.radius = self.add_number("Mask radius (Å)", self.first_radius, self.update_notes)

    def _radius_drawn(self, radius_angs: float) -> None:
        self.radius.set(f"{min(radius_angs, self._largest()):.0f}")

    def update_notes(self) -> None:
        radius = number(self.radius)
        self.canvas.show_radius(radius)
        self.values = {"mask_radius_angs": radius} if radius else {}
        if not radius:
            text = "Give a radius over 0."
        elif radius > self._largest():
            text = f"The mask is wider than the pictures ({2 * self._largest():.0f} Å) and hides nothing at their sides."
        else:
            text = f"{2 * radius:.0f} Å across, {radius / self.average.pixel_size_angs:.0f} px of the particles' own in radius."
        self.notes.configure(text=text)

    def _largest(self) -> float:
        return self.average.box_px * self.average.pixel_size_angs / 2


class BoxDialog(ParticleDialog):
    """Pixel size, box and mask from the particle's diameter, and the memory that they take."""

    explanation = (
        "Type the particle's diameter, or draw it on the average with the mouse. Pixel size, box and mask follow; change them as "
        "you like. The frame is the part of the picture that the network sees."
    )

    def __init__(self, parent: Any, average: Average, batch_size: int, default_network: bool, channels: int):
        self.batch_size, self.default_network, self.channels = batch_size, default_network, channels
        super().__init__(parent, "Pixel size and box for the network", average)

    def _add_fields(self) -> None:
        first = propose_for(self.average)
        self.diameter = self.add_number("Particle diameter (Å)", round(guess_diameter_angs(self.average)), self._propose)
        self.pixel = self.add_number("Pixel size for the network (Å/px)", first.sampling_rate_angs, self.update_notes)
        self.box = self.add_number("Box for the network (px)", first.image_size_px, self.update_notes)
        self.radius = self.add_number("Mask radius (Å)", first.mask_radius_angs, self.update_notes)

    def _radius_drawn(self, radius_angs: float) -> None:
        self.diameter.set(f"{2 * radius_angs:.0f}")

    def _propose(self) -> None:
        """A new diameter: all else follows."""
        diameter = number(self.diameter)
        if not diameter:
            self.update_notes()
            return
        found = propose(diameter, self.average.pixel_size_angs, self.average.box_px)
        for variable, value in (
            (self.pixel, found.sampling_rate_angs),
            (self.box, found.image_size_px),
            (self.radius, found.mask_radius_angs),
        ):
            variable.set(f"{value:g}")

    def update_notes(self) -> None:
        diameter, pixel, box, radius = (number(field) for field in (self.diameter, self.pixel, self.box, self.radius))
        self.canvas.show_radius(diameter and diameter / 2)
        self.canvas.show_frame(pixel and box and pixel * box)
        self.values = {}
        if not (diameter and pixel and box and radius and box == int(box)):
            self.notes.configure(text="Give numbers over 0, and a whole number for the box.")
            return
        names = ("sampling_rate_angs_for_nnet", "image_size_px_for_nnet", "mask_radius_angs")
        self.values = dict(zip(names, (pixel, int(box), radius)))
        found = remarks(diameter, pixel, int(box), self.average.pixel_size_angs, self.average.box_px)
        self.notes.configure(text="\n".join([*self._memory(pixel, int(box)), *(f"• {text}" for text in found)]))

    def _memory(self, pixel_angs: float, box_px: int) -> Any:
        yield f"The box is {pixel_angs * box_px:.0f} Å wide; the finest detail in it is {2 * pixel_angs:.3g} Å."
        if self.average.n_particles:
            stored = size_text(store_bytes(self.average.n_particles, box_px, self.channels))
            yield f"Memory for the {self.average.n_particles:,} prepared pictures: {stored}."
        if not self.default_network:
            yield "GPU memory for a batch: not known for this network."
            return
        kept = size_text(step_bytes(self.batch_size or 1, box_px))
        pictures = f"a batch of {self.batch_size} pictures" if self.batch_size else "each picture of a batch (as many as fit)"
        yield f"GPU memory for {pictures}: {kept} of values that training keeps (counted, U-Net), and more for weights."


def propose_for(average: Average) -> Proposal:
    """The proposal for the diameter that the average shows."""
    return propose(guess_diameter_angs(average), average.pixel_size_angs, average.box_px)


def number(variable: tk.StringVar) -> Optional[float]:
    """A number over 0 in a field, or None."""
    try:
        value = float(variable.get())
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _caption(average: Average) -> str:
    source = f"average of {average.n_pictures} particles" if average.n_particles else "mean of three views of the map"
    own = f"{average.box_px} px of {average.pixel_size_angs:.3g} Å"
    return f"{source}, {own}"
