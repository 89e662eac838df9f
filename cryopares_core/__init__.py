"""CryoPARES core: supervised pose estimation for single-particle cryo-EM."""

__version__ = "0.1.0"
