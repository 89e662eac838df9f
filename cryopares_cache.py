"""`python -m cryopares_cache`."""

import sys

from cryopares_core.commands.cache import main

if __name__ == "__main__":
    sys.exit(main())
