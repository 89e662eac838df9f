"""Scipion's particles for the core: written as a RELION STAR file, and looked at before that.

Why not `relion.convert.writeSetOfParticles` where scipion-em-relion is installed: it takes one acquisition for the whole set, so
that after joining sets of two microscopes half of the particles get the wrong voltage; it gives no progress; it writes disabled
particles; of the attributes of RELION it keeps six; and it is ten times slower. What it does write, this writes too, to the last
digit: the tests compare them.
"""

from cryopares_plugin.convert.check import particle_problems, particle_warnings
from cryopares_plugin.convert.write import Conversion, write_particles

__all__ = ["Conversion", "particle_problems", "particle_warnings", "write_particles"]
