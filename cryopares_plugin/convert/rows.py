"""The items of a Scipion set as columns, block by block, straight from its SQLite file.

Making a Scipion object of each row costs five times as much as reading it, so rows are taken as they are. A set's file has a
table `Classes` that names the column of each attribute (`_ctfModel._defocusU`), and a table `Objects` with one row an item.
"""

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import quote

import numpy as np
from pyworkflow.object import Set

from cryopares_core.errors import UserError

Block = Dict[str, Tuple[Any, ...]]


class ParticleRows:
    """The enabled items of a set, by the names of their attributes; `id` is Scipion's object id.

    Parameters
    ----------
    particles : a Scipion set
    project_path : the folder that the set's own file name starts from
    ids : rising ids `(n,)` of the items that are wanted; None: all

    Raises
    ------
    UserError : the set's file is not there, or is no set.
    """

    def __init__(self, particles: Any, project_path: str = ".", ids: Optional[np.ndarray] = None):
        self.path = os.path.join(project_path, particles.getFileName() or "")
        prefix = (particles.getPrefix() or "").strip()
        prefix += "_" if prefix and not prefix.endswith("_") else ""
        self._classes, self._objects, self._properties = prefix + "Classes", prefix + "Objects", prefix + "Properties"
        self._ids = ids
        self._where = "" if ids is None or not len(ids) else f"id BETWEEN {ids[0]} AND {ids[-1]} AND "
        rows = self._fetch(f"SELECT label_property, column_name, class_name FROM {self._classes}")
        self._columns = {label: column for label, column, _ in rows if label != "self"}
        self._columns["id"] = "id"
        self.types = {label: type_name for label, _, type_name in rows}

    def __contains__(self, label: str) -> bool:
        return label in self._columns

    @property
    def labels(self) -> List[str]:
        return list(self._columns)

    def has(self, label: str) -> bool:
        """Whether any enabled item has a value there."""
        if label not in self:
            return False
        return bool(
            self._fetch(f"SELECT 1 FROM {self._objects} WHERE {self._where}enabled AND {self._columns[label]} IS NOT NULL LIMIT 1")
        )

    def count(self, enabled: bool = True) -> int:
        """How many items are enabled, or are not."""
        if enabled and self._ids is not None:
            return len(self._ids)
        which = self._where + ("enabled" if enabled else "NOT enabled")
        return int(self._fetch(f"SELECT COUNT(*) FROM {self._objects} WHERE {which}")[0][0])

    def ids(self) -> np.ndarray:
        """Those of all enabled items, rising, `(n,)`."""
        return np.array(self._fetch(f"SELECT id FROM {self._objects} WHERE enabled ORDER BY id"), dtype=np.int64).reshape(-1)

    def is_open(self) -> bool:
        """Whether more items may come."""
        state = self._fetch(f"SELECT value FROM {self._properties} WHERE key = '_streamState'")
        return bool(state) and int(state[0][0]) == Set.STREAM_OPEN

    def distinct(self, labels: Sequence[str]) -> List[Tuple[Any, ...]]:
        """Each combination of values that occurs, in order of first appearance; None for what the items do not have."""
        # Not GROUP BY, for which SQLite would sort all rows, with RELION's optics table in each.
        return self._fetch(f"SELECT DISTINCT {self._select(labels)} FROM {self._objects} WHERE {self._where}enabled")

    def blocks(self, labels: Sequence[str], size: int) -> Iterator[Block]:
        """All enabled items by rising id, at most `size` at once, as one tuple of values for each label."""
        query = f"SELECT {self._select(labels)}, id FROM {self._objects} WHERE {self._where}enabled ORDER BY id"
        with self._connection() as connection:
            cursor = connection.execute(query)
            for rows in iter(lambda: cursor.fetchmany(size), []):
                wanted = self._wanted(rows)
                if wanted:
                    yield dict(zip(labels, zip(*wanted)))

    def head(self, labels: Sequence[str], size: int) -> Block:
        """The first enabled items, as a block."""
        return next(self.blocks(labels, size), dict.fromkeys(labels, ()))

    def _wanted(self, rows: List[Tuple[Any, ...]]) -> List[Tuple[Any, ...]]:
        """Those of the rows whose id, which stands last in each, is wanted."""
        if self._ids is None:
            return rows
        return [row for row, wanted in zip(rows, np.isin([row[-1] for row in rows], self._ids)) if wanted]

    def _select(self, labels: Sequence[str]) -> str:
        return ", ".join(self._columns.get(label, "NULL") for label in labels)

    def _fetch(self, query: str) -> List[Tuple[Any, ...]]:
        with self._connection() as connection:
            return connection.execute(query).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of our own, for reading only: the set's own cursor stays where it is."""
        try:
            with closing(self._opened()) as connection:
                yield connection
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: the particles' own file cannot be read ({error}). Is their protocol still running, or was its "
                "folder removed? Run it again, or choose other particles."
            ) from error

    def _opened(self) -> sqlite3.Connection:
        connection = self._open("ro")
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if "readonly" not in str(error):
                raise
            # A writer was killed: only who may write can take back what it left half done.
            return self._open("rw")
        return connection

    def _open(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(os.path.abspath(self.path))}?mode={mode}", uri=True, timeout=60)
