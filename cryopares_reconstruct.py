"""`python -m cryopares_reconstruct`."""

import sys

from cryopares_core.commands.reconstruct import main

if __name__ == "__main__":
    sys.exit(main())
