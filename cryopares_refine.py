"""`python -m cryopares_refine`."""

import sys

from cryopares_core.commands.refine import main

if __name__ == "__main__":
    sys.exit(main())
