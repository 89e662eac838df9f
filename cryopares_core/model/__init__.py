"""The network: image encoder, projector to the sphere, S2 and SO(3) convolutions, the density on SO(3). Knows no files."""
