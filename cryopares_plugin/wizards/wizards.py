"""The wizards that Scipion finds, and the fields that they fill in."""

from typing import Any, Optional

from pyworkflow.gui.dialog import showWarning
from pyworkflow.wizard import Wizard

from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_plugin.form import form_value, tree_fields
from cryopares_plugin.protocols import ProtCryoparesPretrain, ProtCryoparesTrain
from cryopares_plugin.wizards.average import Average, average_of
from cryopares_plugin.wizards.dialogs import BoxDialog, MaskDialog
from cryopares_plugin.wizards.symmetry import SymmetryDialog

PROTOCOLS = (ProtCryoparesTrain, ProtCryoparesPretrain)


class CryoparesBoxWizard(Wizard):
    """Pixel size and box for the network, and the mask that goes with them."""

    _targets = [(cls, ["sampling_rate_angs_for_nnet", "image_size_px_for_nnet"]) for cls in PROTOCOLS]  # noqa: RUF012

    def show(self, form: Any, *_: Any) -> None:
        """Open the dialog and fill in what the user took."""
        average = _average(form)
        if average is None:
            return
        protocol = form.protocol
        two_channels = _value(protocol, "ctf_correction") == "concat_phase_flip"
        dialog = BoxDialog(form.root, average, protocol.batch_size.get() or 0, _is_default_network(protocol), 1 + two_channels)
        if dialog.resultYes():
            _fill(form, dialog.values)


class CryoparesMaskWizard(Wizard):
    """The mask's radius, drawn over average particles."""

    _targets = [(cls, ["mask_radius_angs"]) for cls in PROTOCOLS]  # noqa: RUF012

    def show(self, form: Any, *_: Any) -> None:
        """Open the dialog and fill in what the user took."""
        average = _average(form)
        if average is None:
            return
        dialog = MaskDialog(form.root, average, form.protocol.mask_radius_angs.get())
        if dialog.resultYes():
            _fill(form, dialog.values)


class CryoparesSymmetryWizard(Wizard):
    """The particle's point group."""

    _targets = [(cls, ["symmetry"]) for cls in PROTOCOLS]  # noqa: RUF012

    def show(self, form: Any, *_: Any) -> None:
        """Open the dialog and fill in what the user took."""
        dialog = SymmetryDialog(form.root, form.protocol.symmetry.get() or "C1")
        if dialog.resultYes():
            form.setVar("symmetry", dialog.group)


def _average(form: Any) -> Optional[Average]:
    """The average of the form's input; where there is none, the user is told and gets None."""
    try:
        return average_of(form.protocol)
    except UserError as error:
        showWarning("CryoPARES", "\n".join(error.problems), form.root)
        return None


def _fill(form: Any, values: Any) -> None:
    for name, value in values.items():
        form.setVar(name, f"{value:g}")


def _value(protocol: Any, name: str) -> Any:
    field = next(field for field in tree_fields() if field.name == name)
    return form_value(protocol, name, field.leaf)


def _is_default_network(protocol: Any) -> bool:
    """Whether what takes the memory is as in the schema."""
    image2sphere = Config().models.image2sphere
    encoder = image2sphere.imageencoder
    names = {"resnetName": encoder.resnet.resnetName, "width": encoder.unet.width, "lmax": image2sphere.lmax}
    return all(_value(protocol, name) == default for name, default in names.items())
