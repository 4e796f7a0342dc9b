"""`python -m maskora` is the maskora command."""

import sys
from pathlib import Path

# Python looks for modules in the current folder first, whoever has made what lies there.
if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
    del sys.path[0]

from maskora.cli import main

if __name__ == "__main__":
    main()
