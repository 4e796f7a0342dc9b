"""A small share of `make torture`, so that what it found stays mended."""

import os
import subprocess
import sys
from pathlib import Path

from tests.system import posix_only

REPOSITORY = Path(__file__).parents[2]
PARTS = ("kills", "saving", "damage", "configurations", "checked", "media", "weights")


@posix_only
def test_a_share_of_every_part_ends_well() -> None:
    command = [sys.executable, "-m", "tests.torture", *PARTS, "--share", "0.012"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = done.stdout.rpartition("|---|---|---|---|---|\n")[2].splitlines()
    assert len(rows) == len(PARTS)
