"""Scipion's particles for the core: written as a RELION STAR file, and looked at before that.

Why not `relion.convert.writeSetOfParticles` where scipion-em-relion is installed? It takes the set's acquisition for all
particles: after joining sets of two microscopes, some of them would get the other's voltage. It writes disabled particles too,
keeps six of the attributes that came from RELION, draws no half sets, tells no progress, and its rlnOriginZAngst of zeros is a sign
of sub-tomograms to other readers. Poses, shifts and CTFs are the same: the tests compare both writers, and read with its reader
what we write.
"""

from cryopares_plugin.convert.check import particle_problems, particle_warnings
from cryopares_plugin.convert.write import Conversion, write_particles

__all__ = ["Conversion", "particle_problems", "particle_warnings", "write_particles"]
