"""Text of RELION's STAR files (3.1 and later)."""

from typing import Any, Dict, Iterable, List, Sequence


def table_head(name: str, columns: Iterable[str]) -> str:
    """The lines before the rows of a table."""
    labels = "".join(f"_{column} #{number}\n" for number, column in enumerate(columns, start=1))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{labels}"


def optics_block(rows: Sequence[Dict[str, str]]) -> str:
    """The table of optics groups; all rows have the same columns."""
    return table_head("optics", rows[0]) + "".join(" ".join(row.values()) + "\n" for row in rows)


def lines(formats: Sequence[str], columns: Sequence[Sequence[Any]]) -> str:
    """Rows of a table: one printf format and one sequence of values for each column."""
    row_format = " ".join(formats) + "\n"
    return "".join([row_format % row for row in zip(*columns)])


def quoted(text: Any) -> str:
    """Text as one word: with quotes where it has spaces or is empty."""
    word = str(text)
    return word if word and not any(character.isspace() for character in word) else f'"{word}"'


def words(values: Iterable[Any]) -> List[str]:
    """Text values of a column; None where there is nothing."""
    return ["None" if value is None or value == "" else quoted(value) for value in values]
