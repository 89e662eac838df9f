"""The rotations that a search tries: HEALPix view directions in the asymmetric unit, times in-plane angles."""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.geometry.grids import healpix_so3_grid, healpix_spacing_degs
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix

# A direction in general position: no element of a point group fixes it.
GENERIC_DIRECTION = (0.262, 0.115, 0.958)


class SearchGrid:
    """A product grid on SO(3) modulo a point group.

    The in-plane angles come in pairs that are 180 degrees apart. The slices of such a pair are complex conjugates, so that one
    product serves both. A row is a view direction with an in-plane angle under 180 degrees; a point is a rotation. The points of a
    direction are numbered with the in-plane angle rising fastest: its rows first, then their mates.

    Parameters
    ----------
    order : HEALPix order; 3 has 36,864 points in C1, 7.3 degrees apart
    group : `(g, 3, 3)` matrices of the point group
    """

    def __init__(self, order: int, group: Tensor):
        self.order, self.spacing_degs = order, healpix_spacing_degs(order)
        self.full = healpix_so3_grid(order)
        self.n_in_plane = len(self.full.psi)
        self.n_rows_of_direction = self.n_in_plane // 2
        directions = _asymmetric_unit(self._directions(), group.double(), self.spacing_degs / 2)
        self.points = (directions[:, None] * self.n_in_plane + torch.arange(self.n_in_plane)).flatten()
        self.pose_matrices = euler_degs_to_matrix(self.full.eulers_degs(self.points)).float()

    def __len__(self) -> int:
        return len(self.points)

    @property
    def n_rows(self) -> int:
        return len(self) // 2

    @property
    def row_points(self) -> Tensor:
        """The point of each row, `(rows,)`."""
        return torch.arange(len(self)).view(-1, 2, self.n_rows_of_direction)[:, 0].flatten()

    def pair_up(self, rows: Tensor, mates: Tensor) -> Tensor:
        """Values of the rows and of their mates, `(b, rows)` each, in the order of the points, `(b, points)`."""
        shape = (len(rows), -1, self.n_rows_of_direction)
        return torch.stack((rows.view(shape), mates.view(shape)), dim=2).flatten(1)

    def cosines(self, poses: Tensor, group: Tensor) -> Tensor:
        """Cosines of the angles between poses `(b, 3, 3)`, or the nearest of their mates, and the points: `(b, points)`."""
        points = self.pose_matrices.flatten(1).to(poses)
        best = torch.full((len(poses), len(points)), -1.0, device=poses.device)
        for element in group.to(poses):
            best = torch.maximum(best, ((poses @ element).flatten(1) @ points.T - 1) / 2)
        return best

    def _directions(self) -> Tensor:
        """Unit vectors of the view directions in the reference, `(directions, 3)`: the third row of each pose matrix."""
        first = torch.arange(len(self.full.rot)) * self.n_in_plane
        return euler_degs_to_matrix(self.full.eulers_degs(first))[:, 2]


def _asymmetric_unit(directions: Tensor, group: Tensor, margin_degs: float) -> Tensor:
    """The directions that no element of the group brings nearer to the generic direction, but for a margin.

    The margin keeps a neighbour of each direction that lies on the unit's border.
    """
    generic = torch.nn.functional.normalize(torch.tensor(GENERIC_DIRECTION, dtype=torch.float64), dim=0)
    cosines = (directions @ (group @ generic).T).clamp(-1, 1)
    own = (directions @ generic).clamp(-1, 1)
    return (own.acos() <= cosines.amax(dim=1).acos() + margin_degs / DEGREES).nonzero()[:, 0]
