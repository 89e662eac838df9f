"""`python -m cryopares_train`, as in the training guide."""

import sys

from cryopares_core.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
