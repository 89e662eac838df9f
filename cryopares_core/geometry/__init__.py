"""Rotations and Euler angles, point groups, grids on SO(3), Wigner synthesis. Knows no particles and no files."""
