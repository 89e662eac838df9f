"""Errors that a user can mend, and the way they are told."""

from __future__ import annotations

from typing import Iterable, List, Union


class UserError(Exception):
    """Something in the user's files or settings is wrong.

    Commands print `problems`, one a line, without a traceback, and leave with exit code 2. Each problem names the
    file, row, column and value where there is one, and says what to do.
    """

    exit_code = 2

    def __init__(self, problems: Union[str, Iterable[str]]):
        self.problems: List[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
