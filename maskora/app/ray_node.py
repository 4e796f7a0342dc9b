"""What a node of a Ray cluster runs: the parts of a job, as processes of their own."""

import os
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from maskora.app.edit_line import STOP, EditLine, parse_edit_line
from maskora.app.plan import planned_ram
from maskora.app.processes import start_maskora
from maskora.config.toml import load_config
from maskora.errors import Fault, UserError
from maskora.system import ends_with_parent

PATIENCE = 120  # seconds that an edit which is stopped elsewhere has to save what it has


def prepare_on_node(
    has_gpus: bool, words: list[str], log: Path, folder: Path
) -> tuple[int, int | None]:
    """On a node of a cluster, without a GPU: what of a job comes before its training.

    Args:
        has_gpus: whether training gets one.
        folder: where the batch was started; paths count from it.

    Returns:
        the exit status, and the bytes of RAM that training and inference will take there; None
        where it is not known.
    """
    status = _on_node([*words, STOP], log, folder, "")
    return status, None if status else ram_of_job(parse_edit_line(words), has_gpus)


def finish_on_node(words: list[str], log: Path, folder: Path) -> tuple[int, None]:
    """On a node of a cluster: what is left of a job, on the GPU that the cluster gives it."""
    return _on_node(words, log, folder, None), None


def _on_node(words: list[str], log: Path, folder: Path, gpu: str | None) -> int:
    """Run `maskora edit WORDS…`, which ends when this process does, to its end."""
    os.chdir(folder)
    lock = parse_edit_line(words).workspace.work_lock
    if lock.exists():  # a worker that was lost may still be saving
        with suppress(Timeout), FileLock(lock, timeout=PATIENCE):  # edit itself tells who holds it
            pass
    with log.open("ab") as file:
        child = start_maskora(["edit", *words], file, gpu, ends_with_parent())
    try:
        while child.poll() is None:  # Ray's cancelling would not wake wait()
            time.sleep(0.1)
    except KeyboardInterrupt:
        child.terminate()
    return child.wait()


def ram_of_job(line: EditLine, has_gpus: bool) -> int | None:
    """The planner's bytes of RAM for training and inference; None where it refuses to plan."""
    device = line.device[-1] if line.device else "cuda" if has_gpus else "cpu"
    preset = line.preset[-1] if line.preset else None
    try:
        config = load_config(line.workspace.config, line.settings[1::2], preset)
        return planned_ram(config, line.workspace, device)
    except (UserError, Fault):
        return None  # what stands in the way is said when training begins
