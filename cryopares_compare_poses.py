"""`python -m cryopares_compare_poses`."""

import sys

from cryopares_core.commands.compare_poses import main

if __name__ == "__main__":
    sys.exit(main())
