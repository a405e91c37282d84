"""`python -m service.command`, where the command is not installed."""

import sys

from service.command import main

if __name__ == "__main__":
    sys.exit(main())
