"""Every kind of file of a workspace, damaged in several ways; then every command."""

import functools
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.torture.commands import Answer
from tests.torture.counts import Part
from tests.torture.edits import (
    CONFIG,
    EVALUATE,
    EXPORT,
    INFER,
    RESUME,
    TRACK,
    TRAIN,
    SmallEdit,
    products,
)


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _flip(path: Path) -> None:
    """Other bits in three places, the header left whole: what a disk does."""
    data = bytearray(path.read_bytes())
    for share in (0.5, 0.7, 0.9):
        data[int(share * (len(data) - 1))] ^= 0xFF
    path.write_bytes(data)


def _replace(path: Path) -> None:
    path.write_bytes(b"This is not the file that you are looking for.\n" * 20)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[Path], object]] = {
    "cut short": _truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": _flip,
    "replaced": _replace,
    "deleted": Path.unlink,
    "a folder": _make_folder,
}
COMMANDS = (("check", *CONFIG), ("plan", *CONFIG), TRAIN, RESUME, INFER, EVALUATE, EXPORT, TRACK)


def damaged(edit: SmallEdit, scratch: Path, share: float, seed: int) -> Part:
    """Damage each kind of file in each way, then run each command on a copy.

    Args:
        share: of the combinations that are tried.
    """
    part, generator = (
        Part("a file of the workspace damaged, then every command"),
        random.Random(seed),
    )

    @functools.cache
    def expected(words: tuple[object, ...]) -> str:
        commands = edit.copy(scratch / "whole")
        return products(words, commands.folder, commands.run(*words))

    for kind, file in kinds(edit.folder / "ws").items():
        for way, damage in WAYS.items():
            for words in COMMANDS:
                if generator.random() >= share:
                    continue
                commands = edit.copy(scratch / "damaged")
                damage(commands.folder / "ws" / file)
                answer = commands.run(*words)
                verdict = judge(words, commands.folder, answer, expected(words), file)
                part.add(verdict, f"{kind} {way}, {words[0]}", answer.err)
    shutil.rmtree(scratch / "damaged", ignore_errors=True)
    return part


def kinds(workspace: Path) -> dict[str, Path]:
    """One file of each kind (names that differ in numbers or digests alone are one kind)."""
    found: dict[str, Path] = {}
    for path in sorted(workspace.rglob("*")):
        if path.is_file():
            name = path.relative_to(workspace)
            found.setdefault(re.sub(r"[0-9a-f]{20}|\d+", "N", str(name)), name)
    return found


def judge(
    words: tuple[object, ...], folder: Path, answer: Answer, expected: str, file: Path
) -> str:
    """ "the same", "told", or what is wrong with an answer to damage."""
    if answer.verdict != "works":
        return answer.verdict
    try:
        made = products(words, folder, answer)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a product is the finding
        return f"left damage ({type(error).__name__})"
    if made == expected:
        return "the same"
    notes = [line for line in answer.err.splitlines() if file.name in line]
    return "told" if notes else "silently another result"
