"""Columns of text as arrays of bytes of one width: a fifth of the memory that a string object for each cell takes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Type

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype, take

WASTE = 4  # one long cell makes all cells of its column wide: beyond this factor each gets an object of its own


def pack(cells: Sequence[bytes]) -> np.ndarray:
    """Cells as an array `(n,)`, of numpy's type S unless that wastes memory."""
    widest = max(map(len, cells), default=0)
    wide = widest * len(cells) > WASTE * sum(map(len, cells)) + 1000
    return np.array(cells, dtype=object if wide else f"S{max(widest, 1)}")


class TextDtype(ExtensionDtype):
    """The type of a column whose cells are text, none missing."""

    name = "star text"
    type = str

    @classmethod
    def construct_array_type(cls) -> Type[TextArray]:
        return TextArray


class TextArray(ExtensionArray):
    """Cells `(n,)` for pandas: strings to whoever reads them, kept as UTF-8 in `encoded`, of numpy's type S or bytes objects."""

    dtype = TextDtype()

    def __init__(self, encoded: np.ndarray) -> None:
        self.encoded = encoded

    @classmethod
    def joined(cls, parts: Sequence[np.ndarray]) -> TextArray:
        """One column of several parts."""
        size = sum(part.nbytes for part in parts)
        if sum(map(len, parts)) * max((part.itemsize for part in parts), default=0) > WASTE * size:
            parts = [part.astype(object) for part in parts]
        return cls(np.concatenate(parts) if parts else np.zeros(0, "S1"))

    @classmethod
    def _from_sequence(cls, scalars: Iterable[Any], *, dtype: Any = None, copy: bool = False) -> TextArray:
        return to_text(scalars)

    @classmethod
    def _from_factorized(cls, values: np.ndarray, original: TextArray) -> TextArray:
        return to_text(values)

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[TextArray]) -> TextArray:
        return cls.joined([part.encoded for part in to_concat])

    def __len__(self) -> int:
        return len(self.encoded)

    def __iter__(self) -> Iterator[str]:
        return iter([cell.decode() for cell in self.encoded.tolist()])

    def __getitem__(self, item: Any) -> Any:
        found = self.encoded[pd.api.indexers.check_array_indexer(self, item)]
        return found.decode() if isinstance(found, bytes) else TextArray(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        cells = self.encoded.astype(object)
        new = value.encode() if isinstance(value, str) else to_text(value).encoded
        cells[pd.api.indexers.check_array_indexer(self, key)] = new
        self.encoded = pack(cells.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        cells = np.empty(len(self), dtype=object)
        cells[:] = list(self)
        return cells if dtype is None else cells.astype(dtype)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, pd.Series | pd.DataFrame | pd.Index):
            return NotImplemented
        return np.asarray(self) == (np.asarray(other) if isinstance(other, TextArray) else other)

    @property
    def nbytes(self) -> int:
        return self.encoded.nbytes

    def isna(self) -> np.ndarray:
        return np.zeros(len(self), dtype=bool)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> TextArray:
        return TextArray(take(self.encoded, np.asarray(indices), allow_fill=allow_fill, fill_value=b""))

    def copy(self) -> TextArray:
        return TextArray(self.encoded.copy())

    def _formatter(self, boxed: bool = False) -> Any:
        return str


def to_text(cells: Iterable[Any]) -> TextArray:
    """Values as cells, each as Python writes it."""
    return TextArray(pack([str(cell).encode() for cell in cells]))


def to_floats(column: pd.Series) -> np.ndarray:
    """The numbers that a column of text or numbers holds, `(n,)` float64; NaN where a cell is no number."""
    if not isinstance(column.array, TextArray):
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    cells = column.array.encoded
    try:
        return _all_floats(cells)
    except ValueError:
        return np.array([_float(cell) for cell in cells.tolist()], dtype=np.float64)


def _all_floats(cells: np.ndarray) -> np.ndarray:
    """By the parser of pandas, which is three times as fast as Python's. Raises ValueError where a cell is no number."""
    if not len(cells):
        return np.zeros(0)
    options: dict[str, Any] = {"header": None, "sep": "\x01", "quoting": csv.QUOTE_NONE, "na_filter": False, "dtype": np.float64}
    # Cells hold no control characters, so \x01 divides nothing.
    values = pd.read_csv(io.BytesIO(_lines(cells)), skip_blank_lines=False, **options)[0].to_numpy()
    if len(values) != len(cells):
        raise ValueError("cells that are empty")
    return values


def _lines(cells: np.ndarray) -> bytes:
    """The cells as a text, each in a line."""
    if cells.dtype == object:
        return b"\n".join(cells.tolist())
    lines = np.empty((len(cells), cells.itemsize + 1), np.uint8)
    lines[:, :-1] = cells.view(np.uint8).reshape(len(cells), -1)
    lines[:, -1] = ord("\n")
    lines[lines == 0] = ord(" ")
    return lines.tobytes()


def _float(cell: bytes) -> float:
    """Python's float, but for the underscores that it allows."""
    try:
        return float(cell) if b"_" not in cell else math.nan
    except ValueError:
        return math.nan
