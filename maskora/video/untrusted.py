"""A look at a video that somebody else made, in a process that has little to lose.

Decoders are large and files can be made to break them: what goes wrong, or takes too much, ends a
small process of its own and is told as a refusal.
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from maskora.errors import UserError
from maskora.video.limits import Limits
from maskora.video.probe import probe

BASE_MEMORY = 4 * 1024**3  # bytes of address space, much of which is never used
FRAMES_HELD = 200  # bytes per pixel: a decoder with 16 threads holds some 32 frames
PATIENCE = 300.0  # seconds


def check_untrusted(
    path: Path, limits: Limits, patience: float = PATIENCE, memory: int = BASE_MEMORY
) -> None:
    """Walk through a whole file once, within the limits; after that, `probe` may open it.

    Args:
        patience: seconds after which the file is refused.
        memory: bytes of address space, besides those of the frames.

    Raises:
        UserError: it is no video, goes beyond a limit (which, and what raises it), or could not
            be looked through in the time and memory there is.
    """
    memory += FRAMES_HELD * limits.max_pixels
    order = json.dumps({"path": str(path.absolute()), "limits": asdict(limits), "memory": memory})
    command = [sys.executable, "-P", "-m", "maskora.video.untrusted"]
    try:
        looked = subprocess.run(
            command, input=order.encode(), capture_output=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{path} could not be looked through in {patience:g} seconds, so it is refused; "
            f"a shorter or smaller copy, or another container, may pass"
        ) from None
    said = looked.stderr.decode("utf-8", "replace").strip()
    if looked.returncode == 2:
        raise UserError(said)
    if looked.returncode:
        reason = said.splitlines()[-1] if said else f"status {looked.returncode}"
        raise UserError(f"{path} broke the program that looked at it, so it is refused ({reason})")


def main() -> None:
    """The small process: it may hold some memory, write no file, and leave no core."""
    order = json.load(sys.stdin)
    for kind, most in (
        (resource.RLIMIT_AS, order["memory"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    try:
        probe(Path(order["path"]), limits=Limits(**order["limits"]))
    except UserError as error:
        sys.stderr.write(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
