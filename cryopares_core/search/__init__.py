"""Exhaustive search for poses: the map's likelihood and the network's density on one grid of rotations."""
