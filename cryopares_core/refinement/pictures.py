"""Pictures for refinement: read ahead, checked, and turned into spectra, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.table import ParticleTable
from cryopares_core.particles.usable import usable
from cryopares_core.refinement.frequencies import Frequencies

BLOCK_BYTES = 32_000_000
LARGEST_BLOCK = 512
FEWEST_FREQUENCIES = 20


@dataclass(frozen=True)
class Block:
    """Pictures `(b, n, n)` of one kind: those in `rows` `(b,)` of what was asked for, `indices` `(b,)` of the table."""

    rows: np.ndarray
    indices: np.ndarray
    pictures: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Spectra:
    """Pictures at their frequencies: real and imaginary part `(b, 2, p)`, and what is in them of the CTF `(b, p)`, 1 where it is
    not looked at.
    """

    frequencies: Frequencies
    values: Tensor
    ctf: Tensor


def check_resolution(table: ParticleTable, wanted_angs: float, finest_angs: float = 0.0) -> None:
    """Raise UserError where next to nothing of a table's pictures would be looked at.

    Parameters
    ----------
    wanted_angs, finest_angs : what the user asks for, and the finest that the maps show
    """
    kinds = np.unique(np.stack((table.image_size_px, table.pixel_size_angs)), axis=1).T
    extents = [box * pixel for box, pixel in kinds]
    resolution = max(wanted_angs, finest_angs)
    if min(len(Frequencies(int(box), float(pixel), resolution)) for box, pixel in kinds) < FEWEST_FREQUENCIES:
        raise UserError(
            f"--resolution_angs={wanted_angs:g} is coarser than the pictures, of {min(extents):.4g} Å a side, allow: give a finer "
            "one, such as 8."
        )


class PictureSource:
    """Gives the spectra of a table's particles.

    Parameters
    ----------
    resolution_angs : the finest to look at
    use_ctf : False where pictures are corrected already, or have no CTF
    """

    def __init__(self, table: ParticleTable, resolution_angs: float, use_ctf: bool, device: torch.device):
        self.table, self.use_ctf, self.device = table, use_ctf, device
        kinds = {(int(box), float(pixel)) for box, pixel in zip(table.image_size_px, table.pixel_size_angs, strict=True)}
        self._frequencies = {kind: Frequencies(*kind, resolution_angs, device) for kind in sorted(kinds)}

    @property
    def kinds(self) -> list[Frequencies]:
        """Those of each box and pixel size that there is."""
        return list(self._frequencies.values())

    def some(self, count: int) -> np.ndarray:
        """At most so many particles of each kind, spread over the table."""
        found = []
        for box, pixel in self._frequencies:
            of_kind = np.flatnonzero((self.table.image_size_px == box) & (self.table.pixel_size_angs == pixel))
            found.append(of_kind[np.linspace(0, len(of_kind) - 1, min(count, len(of_kind))).astype(int)])
        return np.concatenate(found)

    def blocks(self, indices: np.ndarray) -> Iterator[Block]:
        """The particles `indices` `(n,)` of the table, in the order of the files; the next block is read while one is used.

        Pictures that are the same everywhere, or have pixels that are not finite or huge, are left out; a block may be empty then.

        Raises
        ------
        UserError : a stack cannot be read
        """
        blocks = self._blocks(indices)
        with ThreadPoolExecutor(1, "pictures") as reader:
            coming = reader.submit(read_images, self.table, indices[blocks[0]]) if blocks else None
            for rows, after in zip_longest(blocks, blocks[1:]):
                raw = coming.result() if coming else np.empty((0, 1, 1))
                coming = None if after is None else reader.submit(read_images, self.table, indices[after])
                good = usable(raw)
                yield Block(rows[good], indices[rows[good]], raw if good.all() else raw[good])

    def _blocks(self, indices: np.ndarray) -> Sequence[np.ndarray]:
        """Places in `indices`, so that each block has one kind of pictures and rises through the files."""
        table, found = self.table, list[np.ndarray]()
        columns = (table.slice_id, table.stack_id, table.pixel_size_angs, table.image_size_px)
        order = np.lexsort([column[indices] for column in columns])
        box, pixel = table.image_size_px[indices[order]], table.pixel_size_angs[indices[order]]
        for kind_box, kind_pixel in self._frequencies:
            of_kind = order[(box == kind_box) & (pixel == kind_pixel)]
            size = max(1, min(LARGEST_BLOCK, BLOCK_BYTES // (4 * kind_box**2)))
            found += [of_kind[first : first + size] for first in range(0, len(of_kind), size)]
        return found

    def spectra(self, block: Block) -> Spectra:
        """What a block, which must not be empty, says at the frequencies of its kind."""
        return self.spectra_of(block.indices, torch.from_numpy(block.pictures).to(self.device, non_blocking=True))

    def spectra_of(self, indices: np.ndarray, images: Tensor) -> Spectra:
        """The same for images `(b, n, n)` of one kind on the device, those of particles `indices` `(b,)`."""
        first = indices[0]
        frequencies = self._frequencies[int(self.table.image_size_px[first]), float(self.table.pixel_size_angs[first])]
        values = frequencies.spectra(images)
        if self.use_ctf:
            known = ctf_tensors(self.table.ctf, indices, self.device)
            ctf = known.in_pictures(frequencies.ctf(known))
        else:
            ctf = torch.ones_like(values[:, 0])
        return Spectra(frequencies, values, ctf)
