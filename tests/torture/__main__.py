"""`python -m tests.torture [PART ...]`: run parts, print counts, keep what was not right."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forks of a process with threads would stand still

import peft  # noqa: F401
import torch  # noqa: F401
from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: F401
from transformers import CLIPVisionModel, UMT5EncoderModel  # noqa: F401

import maskora.cli  # noqa: F401 - loaded once, for all forks
from tests.torture import damage, fuzz, kills, limits
from tests.torture.counts import Part, keep, table
from tests.torture.edits import SmallEdit

Run = Callable[[SmallEdit, Path, float, int], Part]
PARTS: dict[str, Run] = {
    "kills": lambda e, s, share, seed: kills.killed_at_random(e, s, _of(50, share), seed),
    "saving": lambda e, s, share, seed: kills.killed_while_saving(e, s, _of(5, share), seed),
    "disk": lambda e, s, share, seed: limits.full_disk(e, s, _of(12, share)),
    "memory": lambda e, s, share, seed: limits.little_memory(e, s),
    "handles": lambda e, s, share, seed: limits.few_handles(e, s),
    "damage": damage.damaged,
    "configurations": lambda e, s, share, seed: fuzz.configurations(e, s, _of(10_000, share), seed),
    "checked": lambda e, s, share, seed: fuzz.checked_configurations(e, s, _of(300, share), seed),
    "media": lambda e, s, share, seed: fuzz.media(e, s, _of(250, share), seed),
    "weights": lambda e, s, share, seed: fuzz.weights(e, s, _of(250, share), seed),
}


def _of(count: int, share: float) -> int:
    return max(1, round(count * share))


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the trials that are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a file for everything that was not right")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    scratch, done = Path(tempfile.mkdtemp(prefix="torture-")), []
    try:
        edit = SmallEdit(scratch / "edit")
        for name in given.parts or PARTS:
            if name == "disk" and not limits.can_mount():
                print("the full disk is left out: only root may mount a small one", flush=True)
                continue
            began = time.monotonic()
            part = PARTS[name](edit, scratch / name, given.share, given.seed)
            part.seconds = time.monotonic() - began
            done.append(part)
            print(part.row, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(done))
    if given.keep:
        keep(done, given.keep)
    sys.exit(any(part.bad for part in done))


if __name__ == "__main__":
    main()
