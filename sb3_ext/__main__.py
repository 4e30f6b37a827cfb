"""`python -m sb3_ext` is `sb3-ext`."""

import sys

from sb3_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
