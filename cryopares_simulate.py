"""`python -m cryopares_simulate`."""

import sys

from cryopares_core.commands.simulate import main

if __name__ == "__main__":
    sys.exit(main())
