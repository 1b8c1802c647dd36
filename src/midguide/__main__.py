"""`python -m midguide`: the command line."""

from __future__ import annotations

import sys

from midguide.cli import main

if __name__ == "__main__":
    sys.exit(main())
