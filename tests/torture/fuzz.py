"""Configurations, media and weights that are broken at random."""

import random
import re
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.torture.commands import HANGS, Commands
from tests.torture.counts import Part
from tests.torture.edits import CONFIG, SmallEdit

MOST_MEMORY = 2_000_000_000  # bytes that a command may take for a small broken file
VALUES = (
    "0", "-1", "1", "1e308", "-1e308", "nan", "inf", "9" * 5000, "0x10", "true", "false", '""',
    '"auto"', '"none"', '"../../etc"', '"/dev/zero"', '"a\\u0000b"', "[]", "{}", "[1, 2, 3]",
    "[[]]", "{a = 1}", "1979-05-27", '"' + "x" * 3000 + '"', "[" * 200 + "]" * 200, "1_000",
    "0.1", "2", "3", "4", "5", "8", "16", "64", "96", '"64x64"', '"0x0"', '"99999999x99999999"',
    '"cuda"', '"float32"', '"\\ud800"', "", "=", '"', "'''", "#",
)  # fmt: skip


def configurations(edit: SmallEdit, scratch: Path, count: int, seed: int) -> Part:
    """edit.toml with random values, lines and bytes, read in this process."""
    part = Part("configurations broken at random, read")
    for number, commands in _broken_configurations(edit, scratch, count, seed):
        verdict, answer = _read_config(commands.folder / "ws/edit.toml")
        part.add(verdict, f"configuration {number} of seed {seed}", answer)
    return part


def checked_configurations(edit: SmallEdit, scratch: Path, count: int, seed: int) -> Part:
    """The same through `maskora check` and `maskora plan`."""
    part = Part("configurations broken at random, check and plan")
    for number, commands in _broken_configurations(edit, scratch, count, seed):
        answer = commands.run(("check", "plan")[number % 2], *CONFIG, seconds=HANGS)
        part.add(answer.verdict, f"configuration {number} of seed {seed}", answer.err)
    return part


def _broken_configurations(
    edit: SmallEdit, scratch: Path, count: int, seed: int
) -> Iterator[tuple[int, Commands]]:
    """One workspace, with another broken edit.toml each time."""
    commands = edit.copy(scratch / "configurations", "prepared")
    config = commands.folder / "ws/edit.toml"
    whole, generator = config.read_text(), random.Random(seed)
    for number in range(count):
        config.write_bytes(_broken_text(whole, generator))
        yield number, commands


def media(edit: SmallEdit, scratch: Path, count: int, seed: int) -> Part:
    """Videos and pictures with random damage: prepared, or used as masks and edited frames."""
    part, generator = Part("videos and pictures broken at random"), random.Random(seed)
    sources = list(_media(edit, scratch / "sources"))
    for number in range(count):
        commands = edit.copy(scratch / "media", "prepared")
        source = sources[number % len(sources)]
        target = commands.folder / f"broken{source.suffix}"
        target.write_bytes(_broken_bytes(source.read_bytes(), generator))
        if source.suffix == ".png":
            target.replace(commands.folder / "ws/edits/00000.png")
            words: tuple[object, ...] = ("check", *CONFIG)
        else:
            mask = (
                ("--mask", "broken" + source.suffix)
                if number % 3 == 0
                else ("--box", "16,64,120,96")
            )
            video = "ball.mp4" if number % 3 == 0 else target.name
            words = (
                "prepare",
                video,
                "new",
                *mask,
                "--frames",
                9,
                "--size",
                "96x64",
                "--set",
                "model.path=model",
            )
        _add(part, commands, words, f"{source.name} {number} of seed {seed}")
    return part


def weights(edit: SmallEdit, scratch: Path, count: int, seed: int) -> Part:
    """LoRA files and a base's weights with random damage: exported, and loaded."""
    part, generator = Part("weights broken at random"), random.Random(seed)
    for number in range(count):
        commands = edit.copy(scratch / "weights")
        if number % 4:
            target = commands.folder / "lora.safetensors"
            words: tuple[object, ...] = (
                "export",
                target.name,
                "other.safetensors",
                "--layout",
                "comfyui",
            )
        else:
            target = next((commands.folder / "model/transformer").glob("*.safetensors"))
            words = ("plan", *CONFIG)
        target.write_bytes(_broken_bytes(target.read_bytes(), generator))
        _add(part, commands, words, f"{target.name} {number} of seed {seed}")
    return part


def _add(part: Part, commands: Commands, words: tuple[object, ...], what: str) -> None:
    answer = commands.run(*words, seconds=HANGS)
    verdict = "takes too much memory" if answer.grown > MOST_MEMORY else answer.verdict
    part.add(verdict, f"{words[0]}: {what}", answer.err)


def _media(edit: SmallEdit, folder: Path) -> Iterator[Path]:
    """The clip in several containers, and a picture."""
    import subprocess

    import imageio_ffmpeg

    folder.mkdir(parents=True, exist_ok=True)
    clip = edit.folder / "ball.mp4"
    yield clip
    for name in ("clip.mkv", "clip.avi", "clip.webm", "clip.ts", "clip.gif", "clip.mov"):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(clip)]
        subprocess.run([*command, str(folder / name)], check=True)
        yield folder / name
    yield edit.folder / "ws/edits/00000.png"


def _broken_bytes(data: bytes, generator: random.Random) -> bytes:
    """Cut, flipped, zeroed, doubled or shuffled; its head is hit as often as all the rest."""
    broken = bytearray(data)

    def place() -> int:
        end = len(broken) if generator.random() < 0.5 else min(len(broken), 400)
        return generator.randrange(end)

    for _ in range(generator.choice((1, 1, 2, 5, 20))):
        if not broken:
            break
        kind, at = generator.randrange(6), place()
        if kind == 0:
            del broken[max(8, at) :]
        elif kind == 1:
            broken[at] ^= 1 << generator.randrange(8)
        elif kind == 2:
            broken[at : at + generator.choice((1, 4, 64))] = b"\0" * generator.choice((1, 4, 64))
        elif kind == 3:
            broken[at:at] = generator.randbytes(generator.choice((1, 7, 100)))
        elif kind == 4:
            broken[at : at + 4] = generator.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"))
        else:
            del broken[at : at + generator.choice((1, 3, 200))]
    return bytes(broken)


def _broken_text(whole: str, generator: random.Random) -> bytes:
    """Values exchanged, lines doubled, dropped or nonsense; now and then raw bytes."""
    lines = whole.splitlines()
    keys = [n for n, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        at = generator.choice(keys)
        key = lines[at].partition(" = ")[0]
        kind = generator.randrange(8)
        if kind < 5:
            lines[at] = f"{key} = {generator.choice(VALUES)}"
        elif kind == 5:
            lines[at] = (
                lines[at] + "\n" + generator.choice((lines[at], "[model]", "x = 1", "[a.b]"))
            )
        elif kind == 6:
            lines[at] = lines[at].replace(
                key, generator.choice(("stepps", key.upper(), key + " .x", ""))
            )
        else:
            lines[at] = ""
    data = "\n".join(lines).encode("utf-8", "replace")
    return _broken_bytes(data, generator) if generator.random() < 0.1 else data


def _read_config(path: Path) -> tuple[str, str]:
    """Read a configuration in this process, with a limit on its time."""
    from maskora.config import load_config
    from maskora.errors import UserError

    def too_long(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(int(HANGS))
    try:
        load_config(path)
    except UserError as error:
        return "told", str(error)
    except TimeoutError:
        return "hangs", ""
    except Exception:  # noqa: BLE001 - any other is the finding
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
    return "works", ""
