"""python -m gui_mask is maskora gui."""

import sys

from maskora.cli import app

if __name__ == "__main__":
    app(["gui", *sys.argv[1:]], prog_name="python -m gui_mask")
