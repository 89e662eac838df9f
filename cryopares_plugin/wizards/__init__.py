"""Helpers behind the magic wands of the forms."""

from cryopares_plugin.wizards.wizards import CryoparesBoxWizard, CryoparesMaskWizard, CryoparesSymmetryWizard

__all__ = ["CryoparesBoxWizard", "CryoparesMaskWizard", "CryoparesSymmetryWizard"]
