"""`python -m cryopares_report`."""

import sys

from cryopares_core.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
