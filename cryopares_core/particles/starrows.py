"""Many rows of a STAR file cut into columns at once, where all of them are of the plain kind."""

from __future__ import annotations

import re

import numpy as np

from cryopares_core.particles.text import WASTE

LONGEST_PLAIN = 1000  # characters of a word that is cut with its whole column
# Quoted texts that need no look at their neighbours. While rows are cut, characters that no file holds stand for what is in them.
QUOTED = re.compile(rb'"(?<!\S")([^"\n\t]*)"(?!\S)')
HIDDEN_SPACE, HIDDEN_NOTHING = b"\x01", b"\x02"


def plain_rows(chunk: bytes, width: int) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Cut whole lines that all have `width` values, or none: the columns, and `(n,)` the place of each row among the lines.

    None where a line is of another kind: the chunk must then be read line by line.
    """
    quoted = b'"' in chunk and HIDDEN_SPACE not in chunk and HIDDEN_NOTHING not in chunk
    if quoted:
        chunk = QUOTED.sub(_hide, chunk)
    if width < 2 or any(mark in chunk for mark in (b"#", b'"', b"'", b"\r")) or not _is_utf8(chunk):
        return None
    padded = np.frombuffer(b"\n" + chunk + b"\n" + bytes(LONGEST_PLAIN), np.uint8)
    text = padded[:-LONGEST_PLAIN]
    ends_of_lines = np.flatnonzero(text == ord("\n"))
    allowed = np.isin(text, [*b"\t\n", *(HIDDEN_SPACE + HIDDEN_NOTHING if quoted else b"")])
    if np.count_nonzero(text < ord(" ")) != np.count_nonzero(allowed) or b"\x7f" in chunk:
        return None
    space = (text == ord(" ")) | (text == ord("\t")) | (text == ord("\n"))
    borders = np.flatnonzero(space[1:] != space[:-1]) + 1
    starts, ends = borders[::2], borders[1::2]
    in_line = np.diff(np.searchsorted(starts, ends_of_lines))
    if ((in_line != 0) & (in_line != width)).any():
        return None
    starts, lengths = starts.reshape(-1, width), (ends - starts).reshape(-1, width)
    widest = lengths.max(axis=0, initial=1)
    if widest.max() > LONGEST_PLAIN or widest.sum() * len(starts) > WASTE * len(text):
        return None
    columns = [_cut(padded, starts[:, place], lengths[:, place], int(widest[place])) for place in range(width)]
    if quoted:
        for column in columns:
            _show(column)
    return columns, np.flatnonzero(in_line)


def _hide(match: re.Match[bytes]) -> bytes:
    """A quoted text as one word of the line."""
    return match[1].replace(b" ", HIDDEN_SPACE) or HIDDEN_NOTHING


def _show(words: np.ndarray) -> None:
    """The texts that were hidden, in place."""
    characters = words.view(np.uint8)
    characters[characters == ord(HIDDEN_SPACE)] = ord(" ")
    characters[characters == ord(HIDDEN_NOTHING)] = 0


def _is_utf8(chunk: bytes) -> bool:
    try:
        return chunk.isascii() or bool(chunk.decode())
    except UnicodeDecodeError:
        return False


def _cut(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Words of a text `(k,)` uint8, as numpy's type S of some width."""
    at_every_place: np.ndarray = np.ndarray((len(text) - width + 1,), f"S{width}", text, strides=(1,))
    words = at_every_place[starts]
    kept = np.array([b"\xff" * length for length in range(width + 1)], f"S{width}")
    characters = words.view(np.uint8)
    characters &= kept[lengths].view(np.uint8)
    return words
