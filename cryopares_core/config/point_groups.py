"""Names of point groups, as RELION writes them."""

import re

from cryopares_core.errors import UserError

MAX_FOLD = 100
_PLATONIC = ("T", "O", "I")


def group_name(text: str) -> str:
    """The name in one spelling: `c5` is `C5`, `I2` is `I`.

    Raises
    ------
    UserError : the text is no point group of RELION's, or one on other axes (`I1`, `I3`).
    """
    name = text.strip().upper()
    if name == "I2" or name in _PLATONIC:
        return name[0]
    match = re.fullmatch(r"([CD])(\d{1,3})", name)
    if not match or not 1 <= int(match.group(2)) <= MAX_FOLD:
        raise UserError(
            f"symmetry: {text!r} is not a point group. Give C1, C2 … C{MAX_FOLD}, D1 … D{MAX_FOLD}, T, O or I, as in RELION."
        )
    return f"{match.group(1)}{int(match.group(2))}"
