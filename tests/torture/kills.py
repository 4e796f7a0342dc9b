"""Training that is killed, and goes on: losses and LoRA equal those of a run that was let be."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.torture.counts import Part
from tests.torture.edits import RESUME, TRAIN, SmallEdit, loras, losses

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}
MOST = 8  # times that one training is killed


def killed_at_random(edit: SmallEdit, scratch: Path, moments: int, seed: int) -> Part:
    """Kill trainings at random times until so many kills are done; each training is finished."""
    part, generator = Part("training killed at random and resumed"), random.Random(seed)
    commands = edit.copy(scratch / "calm", "prepared")
    usual = commands.run(*TRAIN).seconds
    expected = loras(commands.folder), losses(commands.folder)
    kills = 0
    while kills < moments:
        commands, here = edit.copy(scratch / "killed", "prepared"), 0
        while here < MOST and kills < moments:
            started = commands.start(*(RESUME if here else TRAIN))
            time.sleep(generator.uniform(0.0, usual))
            if started.ended():
                started.wait()
                break
            started.kill()
            started.wait()
            kills, here = kills + 1, here + 1
            part.counts["the same"] += 1  # so far; the last of this training is judged below
        if here:
            _finish(part, commands.run(*RESUME), commands.folder, expected, f"{here} kills")
    return part


def killed_while_saving(edit: SmallEdit, scratch: Path, moments: int, seed: int) -> Part:
    """Kill each training at one change of its run folder: in the middle of a checkpoint."""
    part, generator = Part("training killed in the middle of a checkpoint"), random.Random(seed)
    commands = edit.copy(scratch / "calm", "prepared")
    commands.run(*TRAIN)
    expected = loras(commands.folder), losses(commands.folder)
    for change in generator.sample(range(1, 40), moments):
        commands = edit.copy(scratch / "killed", "prepared")
        runs = str(commands.folder / "ws" / "runs")
        answer = commands.run(*TRAIN, prepare=lambda at=change, below=runs: _die_at(at, below))
        if answer.status == -signal.SIGKILL:
            part.counts["the same"] += 1
            answer = commands.run(*RESUME)
        _finish(part, answer, commands.folder, expected, f"killed at change {change}")
    return part


def _finish(part: Part, answer: Any, folder: Path, expected: tuple[Any, Any], what: str) -> None:
    """The end of a training that was killed; its last kill was counted as good already."""
    if answer.verdict != "works":
        verdict = answer.verdict
    elif (loras(folder), losses(folder)) != expected:
        verdict = "another result"
    elif litter := [str(p.relative_to(folder)) for p in (folder / "ws").rglob(".part-*")]:
        verdict, what = "litter", f"{what}: {', '.join(litter)}"
    else:
        return
    part.counts["the same"] -= 1
    part.add(verdict, what, answer.err)


def _die_at(change: int, below: str) -> None:
    """Kill this process at the n-th change of files below a folder."""
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if (writes or event in CHANGES) and str(arguments[0]).startswith(below):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
