"""Particles: STAR tables, stacks, CTF, preparation, augmentation, batches. Knows no network."""
