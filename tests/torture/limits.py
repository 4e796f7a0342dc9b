"""A machine that runs out: of disk, of memory, of file handles."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.torture.commands import Commands
from tests.torture.counts import Part
from tests.torture.edits import (
    EVALUATE,
    EXPORT,
    INFER,
    PREPARE,
    RESUME,
    TRACK,
    TRAIN,
    SmallEdit,
    products,
)

# A command, the workspace that it starts from, what of it is not there yet, and the command that
# finishes its work when the machine has room again.
CASES = (
    (PREPARE, "prepared", "ws", PREPARE),
    (TRACK, "prepared", "ws/masks/clicks", TRACK),
    (TRAIN, "prepared", "ws/runs", RESUME),
    (INFER, "ws", "ws/output", INFER),
    (EVALUATE, "ws", "ws/output/report*", EVALUATE),
    (EXPORT, "ws", "lora.safetensors", EXPORT),
)


def can_mount() -> bool:
    """True where a small disk in memory can be mounted."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


def full_disk(edit: SmallEdit, scratch: Path, fillings: int) -> Part:
    """Each command on a disk that fills up at every part of its writing; then with room again."""
    part, disk = Part("the disk full in the middle of each kind of write"), scratch / "disk"
    for words, start, without, again in CASES:
        commands = _copy(edit, scratch / "roomy", start, without)
        before = _size(commands.folder)
        answer = commands.run(*words)
        needs = _size(commands.folder) - before
        expected = products(words, commands.folder, answer)
        for number in range(fillings):
            room = int(needs * (number + 0.5) / fillings)
            with _Disk(disk, before + needs + 8_000_000):
                commands = _copy(edit, disk / "edit", start, without)
                filling = _fill(disk, room)
                answer = commands.run(*words)
                what = f"{words[0]} with {room} of {needs} bytes"
                part.add(_verdict(answer.verdict, answer.err), what, answer.err)
                filling.unlink()
                answer = commands.run(*again)
                same = answer.verdict == "works" and (
                    products(words, commands.folder, answer) == expected
                )
                verdict = "the same" if same else f"afterwards {answer.verdict}"
                part.add(verdict, f"{what}, with room again", answer.err)
    return part


def little_memory(edit: SmallEdit, scratch: Path) -> Part:
    """Each command with a limited address space."""
    extra = [mb * 1_000_000 for mb in (1, 4, 16, 64, 256, 1024)]
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = [now + more for more in extra]
    return _limited(edit, scratch, "little memory", resource.RLIMIT_AS, limits)


def few_handles(edit: SmallEdit, scratch: Path) -> Part:
    """Each command with few file handles."""
    limits = [_with_free_handles(free) for free in (2, 3, 4, 5, 6, 8, 12, 16, 32, 64)]
    return _limited(edit, scratch, "few file handles", resource.RLIMIT_NOFILE, limits)


def _with_free_handles(count: int) -> int:
    """The limit, which is one of their numbers, below which so many handles are free now."""
    used, limit = {int(number) for number in os.listdir("/proc/self/fd")}, 0
    while count:
        count -= limit not in used
        limit += 1
    return limit


def _limited(edit: SmallEdit, scratch: Path, title: str, kind: int, limits: list[int]) -> Part:
    part = Part(title)
    for words, start, without, again in CASES:
        calm = _copy(edit, scratch / "roomy", start, without)
        expected = products(words, calm.folder, calm.run(*words))
        for limit in limits:
            commands = _copy(edit, scratch / "limited", start, without)
            answer = commands.run(*words, prepare=_set_limit(kind, limit))
            what = f"{words[0]} with {limit}"
            part.add(answer.verdict, what, answer.err)
            if answer.verdict != "works":
                answer = commands.run(*again)
                same = answer.verdict == "works" and (
                    products(words, commands.folder, answer) == expected
                )
                verdict = "the same" if same else f"afterwards {answer.verdict}"
                part.add(verdict, f"{what}, without the limit again", answer.err)
    return part


def _set_limit(kind: int, limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (limit, limit))


def _verdict(verdict: str, message: str) -> str:
    """What a full disk has to be answered with."""
    if verdict == "told" and "space" not in message and "disk" not in message.lower():
        return "does not say that the disk is full"
    return verdict


def _copy(edit: SmallEdit, target: Path, start: str, without: str) -> Commands:
    commands = edit.copy(target, start)
    for path in target.glob(without):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return commands


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _fill(disk: Path, room: int) -> Path:
    """A file that leaves so many bytes of the disk, or a page less."""
    filling = disk / "filling"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            state = os.statvfs(disk)
            more = state.f_bavail * state.f_frsize - room
            if more <= 0:
                break
            file.write(bytes(min(more, 100_000)))
    return filling


class _Disk:
    """A small disk in memory, mounted at a folder for as long as it is entered."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size

    def __enter__(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        options = f"size={self._size}"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._folder)], check=True
        )

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)
