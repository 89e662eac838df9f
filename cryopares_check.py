"""`python -m cryopares_check`."""

import sys

from cryopares_core.commands.check import main

if __name__ == "__main__":
    sys.exit(main())
