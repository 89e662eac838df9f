"""`python -m cryopares_infer`."""

import sys

from cryopares_core.commands.infer import main

if __name__ == "__main__":
    sys.exit(main())
