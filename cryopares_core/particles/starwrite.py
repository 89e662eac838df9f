"""Writing RELION STAR files: text as it was read, numbers with six decimals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cryopares_core.files import atomic_path
from cryopares_core.particles.text import TextArray

ROWS_AT_ONCE = 10_000
MARKS = (b" ", b"\t", b"#", b'"', b"'")  # text without these needs no quotes
ENDS_DOUBLE_QUOTES = re.compile(rb'"\s')


def write_tables(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables, each a loop in the data block of its name, all or nothing."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(b"# Written by CryoPARES\n\n")
        for name, rows in tables.items():
            labels = "".join(f"_{column} #{place}\n" for place, column in enumerate(rows.columns, start=1))
            file.write(f"data_{name}\n\nloop_\n{labels}".encode())
            for start in range(0, len(rows), ROWS_AT_ONCE):
                columns = [_cells(rows[column], slice(start, start + ROWS_AT_ONCE)) for column in rows.columns]
                file.writelines([b"\t".join(row) + b"\n" for row in zip(*columns, strict=True)])
            file.write(b"\n\n")


def _cells(column: pd.Series, rows: slice) -> list[bytes]:
    """Some cells of a column as they stand in the file."""
    if isinstance(column.array, TextArray):
        return _quoted(column.array.encoded[rows].tolist())
    values = column.iloc[rows].tolist()
    if column.dtype.kind == "f":
        return (b"%.6f " * len(values) % tuple(values)).split()
    return _quoted([str(value).encode() for value in values])


def _quoted(cells: list[bytes]) -> list[bytes]:
    """Quotes around cells that are empty, hold spaces, or would begin a comment or a quotation."""
    text = b"\n".join(cells)
    if all(cells) and not any(mark in text for mark in MARKS):
        return cells
    return [cell if cell.split() == [cell] and cell[:1] not in b"#\"'" else _in_quotes(cell) for cell in cells]


def _in_quotes(cell: bytes) -> bytes:
    mark = b"'" if ENDS_DOUBLE_QUOTES.search(cell) else b'"'
    return mark + cell + mark
