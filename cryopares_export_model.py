"""`python -m cryopares_export_model`."""

import sys

from cryopares_core.commands.export_model import main

if __name__ == "__main__":
    sys.exit(main())
