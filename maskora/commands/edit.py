"""edit: a video, the place of the edit and its edited first frame; out comes the edited clip.

Each stage is a process of its own. All that training held of the GPU is free again when inference
asks how much of it there is; what kills a stage leaves this process to say so; and a stage tells
its mistakes, and ends, as the command does that a person would type.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from maskora import devices
from maskora.commands.children import run_maskora, told_crash
from maskora.errors import Fault, UserError
from maskora.files import replacing
from maskora.workspace import IMAGE_SUFFIXES, Workspace

FOR_PREPARE = ("--base", "--frames", "--size", "--caption", "--edited-caption")
REPEATABLE = ("--click", "--keyframe", "--set")
OPTIONS = ("--mask", "--workspace", "--device", *FOR_PREPARE, *REPEATABLE)
SEE = "maskora edit --help lists the options"


@dataclass(frozen=True)
class Order:
    """What is wanted, checked as far as it can be before any work.

    Attributes:
        region, clicks, options, settings, device: words for the commands: `--box`, `--mask` or
            nothing; `--click …`; the options of `prepare`; `--set …`; `--device` or nothing.
        edits: frame of the workspace -> edited image. Frame 0 is there.
    """

    video: str
    region: list[str]
    clicks: list[str]
    options: list[str]
    settings: list[str]
    device: list[str]
    edits: dict[int, Path]
    output: Path
    workspace: Workspace


def edit_video(words: Sequence[str]) -> None:
    """Prepare, track what was clicked, train and infer; or continue where that stands.

    Args:
        words: the command line after `maskora edit`.

    Raises:
        UserError: the line is wrong; then nothing has begun.
        Fault: a stage was killed.
        typer.Exit: a stage has failed, and has said why.
    """
    order = read_order(words)
    workspace, settings = order.workspace, order.settings
    if workspace.config.is_file():
        _say(f"{workspace.root} is prepared already: continuing with it")
    else:
        _say(f"preparing {workspace.root}")
        where = [order.video, str(workspace.root)]
        _run("prepare", *where, *order.region, *order.options, *settings)
        settings = []  # they are in the workspace's configuration now
    if order.clicks and not workspace.mask_record.is_file():
        _say("following what was clicked")
        _run("track", str(workspace.root), *order.clicks, *settings)
    for frame, image in order.edits.items():
        place_edit(workspace, frame, image)
    config = ["--config", str(workspace.config), *order.device, *settings]
    _say("training")
    _run("train", *config, "--stage", "all", "--resume")
    _say(f"making {order.output}")
    _run("infer", *config, "--output", str(order.output))
    _say(f"done: {order.output}")


def read_order(words: Sequence[str]) -> Order:
    """The command line, understood. Raises UserError."""
    places, given = split_words(words)
    masks, clicks = given["--mask"][-1:], given["--click"]
    if masks and clicks:
        raise UserError("--mask and --click: give one of them")
    named = next((f" beside {name}" for name in ("--mask", "--click") if given[name]), "")
    wanted = ["VIDEO", *([] if named else ["X,Y,W,H"]), "EDITED_FRAME", "OUT.mp4"]
    if len(places) != len(wanted):
        raise UserError(f"expected {' '.join(wanted)}{named}, got {len(places)} of them ({SEE})")
    video, *box, edited, output = places
    if not Path(video).exists():
        raise UserError(f"no such video: {video}")
    if Path(output).suffix.lower() != ".mp4":
        raise UserError(f"the output is an .mp4 file, not {output}")
    for device in given["--device"]:
        devices.parse(device)
    root = Path([str(Path(output).with_suffix(".work")), *given["--workspace"]][-1])
    return Order(
        video=video,
        region=_region(box, masks),
        clicks=[word for click in clicks for word in ("--click", click)],
        options=[word for name in FOR_PREPARE for one in given[name][-1:] for word in (name, one)],
        settings=[word for setting in given["--set"] for word in ("--set", setting)],
        device=[word for one in given["--device"][-1:] for word in ("--device", one)],
        edits={0: _image(edited), **dict(_keyframe(text) for text in given["--keyframe"])},
        output=Path(output),
        workspace=Workspace(root),
    )


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The places, and option -> all values that it was given. Raises UserError.

    Options may stand anywhere on the line, also after a lone --.
    """
    places: list[str] = []
    given: dict[str, list[str]] = {name: [] for name in OPTIONS}
    waiting = iter(words)
    for word in waiting:
        name, sign, value = word.partition("=")
        if word == "--":
            continue
        if not word.startswith("-"):
            places.append(word)
            continue
        if name not in given:
            raise UserError(f"unknown option {name} ({SEE})")
        if not sign:
            try:
                value = next(waiting)
            except StopIteration:
                raise UserError(f"{name} needs a value ({SEE})") from None
        given[name].append(value)
    return places, given


def _region(box: list[str], masks: list[str]) -> list[str]:
    for text in box:
        if not re.fullmatch(r"[0-9]+(,[0-9]+){3}", text):
            raise UserError(f"the box is written X,Y,W,H in pixels, not {text}")
        return ["--box", text]
    for mask in masks:
        if not Path(mask).exists():
            raise UserError(f"no such mask: {mask}")
        return ["--mask", mask]
    return []


def _keyframe(text: str) -> tuple[int, Path]:
    number, _, path = text.partition("=")
    if not (re.fullmatch(r"[0-9]+", number) and path):
        raise UserError(f"--keyframe is written N=IMAGE (24=frame24.png), not {text}")
    return int(number), _image(path)


def _image(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"no such image: {path}")
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"not a png, jpg or webp image: {path}")
    return Path(path)


def place_edit(workspace: Workspace, frame: int, image: Path) -> None:
    """An edited image becomes a frame's edit, in place of an earlier one."""
    target = workspace.edited_frame(None, frame, image.suffix.lower())
    earlier = [path for path in workspace.edits_dir.glob("*") if _is_frame(path, frame)]
    if not any(path.samefile(image) for path in earlier):
        with replacing(target) as scratch:
            shutil.copyfile(image, scratch)
        image = target
    for path in earlier:
        if not path.samefile(image):
            path.unlink()


def _is_frame(path: Path, frame: int) -> bool:
    """Whether this is a frame's edited image, however a person wrote its number."""
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        and re.fullmatch(r"[0-9]+", path.stem) is not None
        and int(path.stem) == frame
    )


def _run(*words: str) -> None:
    """One stage. Raises typer.Exit with its status, or Fault where it could not say anything."""
    status = run_maskora(words)
    if crash := told_crash(words[0], status):
        raise Fault(crash)
    if status:
        raise typer.Exit(status)


def _say(text: str) -> None:
    print(f"edit: {text}", flush=True)
