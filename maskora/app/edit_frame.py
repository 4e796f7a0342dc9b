"""edit-frame: one tool on one frame of an edit, from the shell; the window's tools are the same."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from maskora import devices
from maskora.app.retouching import FrameEdit
from maskora.config import Config
from maskora.errors import UserError
from maskora.files import remove
from maskora.image_editor import open_image_editor
from maskora.memory.machine import budget
from maskora.retouch import AnyStep, Area, Blend, Erase, Paint, PlacePicture, Recolour, Step, Swap
from maskora.video.composite import contact_sheet
from maskora.video.fit import fit_image
from maskora.video.images import read_image, read_with_alpha, write_png

log = logging.getLogger("maskora")
MOST_CANDIDATES = 16
LARGEST_SEED = 2**63 - MOST_CANDIDATES  # what a generator of torch takes
SHEET = "sheet.png"
# What says how, and to which tools.
HOW = {
    "area": ("recolour", "swap"),
    "at": ("place",),
    "blend": ("place",),
    "opacity": ("place", "paint", "restore"),
    "edited": ("copy",),
}


@dataclass(frozen=True)
class Tools:
    """What was asked for; exactly one of these, apart from the last five, which say how.

    Attributes:
        recolour: HUE,SATURATION,BRIGHTNESS
        swap: FROM,TO[,TOLERANCE]
        paint: COLOUR,RADIUS,X,Y[,X,Y…]
        restore: RADIUS,X,Y[,X,Y…]
        erase: RADIUS,X,Y[,X,Y…] or "object"
        place: a picture's file.
        copy: N[,DX,DY]
        choose: a candidate's number.
        pick: X,Y
        at: X,Y,WIDTH[,ANGLE] of the placed picture.
    """

    recolour: str | None = None
    swap: str | None = None
    paint: str | None = None
    restore: str | None = None
    erase: str | None = None
    place: Path | None = None
    copy: str | None = None
    from_result: bool = False
    carry: bool = False
    instruct: str | None = None
    choose: int | None = None
    pick: str | None = None
    undo: bool = False
    redo: bool = False
    steps: bool = False
    area: Area = "object"
    at: str | None = None
    blend: Blend = "normal"
    opacity: float = 1.0
    edited: bool = False

    @property
    def asked(self) -> list[str]:
        """The tools that were named."""
        return [name for name, value in vars(self).items() if value and name not in HOW]

    @property
    def idle(self) -> list[str]:
        """What says how, and has no effect on the tool that was named."""
        given = [name for name in HOW if getattr(self, name) != getattr(Tools, name)]
        return [name for name in given if not set(HOW[name]) & set(self.asked)]


@dataclass(frozen=True)
class Instruction:
    """What a model is told.

    Attributes:
        reference: a picture to take something from, or None.
        candidates: how many pictures to make.
        seed: of the first; each further one has the next.
    """

    text: str
    reference: Path | None = None
    candidates: int = 1
    seed: int = 0


def edit_frame(target: FrameEdit, tools: Tools, instruction: Instruction | None) -> list[str]:
    """Use one tool on a frame; lines for the person.

    Raises:
        UserError: not one tool was named, or what it was given is wrong; nothing has changed then.
    """
    if len(tools.asked) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in tools.asked) or "none"
        raise UserError(f"name one tool at a time ({names} given); maskora edit-frame --help")
    for name in tools.idle:
        log.warning("note: --%s has no effect here; it is of --%s", name, ", --".join(HOW[name]))
    if instruction is not None:
        return instruct(target, instruction)
    if tools.steps:
        return target.history().lines() or [f"frame {target.frame}: no steps"]
    if tools.pick:
        return [target.pick(*_numbers("pick", tools.pick, 2, 2))]
    if tools.undo or tools.redo:
        return [_written(target, target.move(-1 if tools.undo else 1))]
    if tools.choose:
        return [_written(target, choose(target, tools.choose))]
    if tools.from_result:
        return [_written(target, take_result(target))]
    if tools.carry:
        return [_written(target, carry(target))]
    if tools.copy:
        return [_written(target, _copy(target, tools.copy, tools.edited))]
    return [_written(target, target.add(_step(target, tools)))]


def _copy(target: FrameEdit, text: str, edited: bool) -> Path:
    numbers = _numbers("copy", text, 1, 3)
    if not all(one.is_integer() for one in numbers):
        raise UserError(f"--copy {text}: a frame and pixels are whole numbers")
    number, dx, dy = (int(one) for one in (*numbers, 0.0, 0.0)[:3])
    with _explained("copy"):
        return copy_frame(target, number, edited, dx, dy)


def copy_frame(target: FrameEdit, number: int, edited: bool, dx: int, dy: int) -> Path:
    """Lay another frame on, moved by whole pixels: as in the video, or as edited there."""
    label = f"copy of {'edited ' if edited else ''}frame {number}"
    return target.lay(target.other(number, edited), label, dx, dy)


def take_result(target: FrameEdit, number: int | None = None) -> Path:
    """Lay on what a result shows in this frame.

    Args:
        number: of an earlier version; None: the newest.

    Raises:
        UserError: there is no such result.
    """
    from maskora.app.evaluate import find_result, read_result
    from maskora.app.versions import version_folder
    from maskora.video.read import read_frames

    source = target.workspace.read_source()
    if number is None:
        result = find_result(target.workspace, source, target.edit, None)
    else:
        folder = version_folder(target.workspace, target.edit, number)
        result = read_result(folder, source, "take another version")
    (shown_HWC,) = read_frames(result.video, target.frame, 1)
    if shown_HWC.shape[1::-1] != source.size:
        shown_HWC = fit_image(shown_HWC, source.placement)
    return target.lay(shown_HWC, f"{result.video.path.name}, frame {target.frame}")


def carry(target: FrameEdit) -> Path:
    """Lay on what the base makes of this frame, shown the edited frame before it."""
    from maskora.app.carrying import carried_frame

    target.region()  # refused before anything is loaded
    made_HWC = carried_frame(target.config, target.workspace, target.edit, target.frame)
    return target.lay(made_HWC, "carried from the edited frame before")


def instruct(target: FrameEdit, given: Instruction) -> list[str]:
    """Have candidates made by the model of [editor]; a single one is taken at once."""
    folder = target.workspace.candidates(target.edit, target.frame)
    made = make_candidates(target, given)
    if len(made) == 1:
        return [_written(target, choose(target, 1))]
    return [
        f"{folder}: {len(made)} candidates; look at {folder / SHEET}, then take one with "
        f"maskora edit-frame … --choose K"
    ]


def make_candidates(target: FrameEdit, given: Instruction) -> list[Path]:
    """Write a picture for each seed, and all of them side by side; earlier ones go.

    Raises:
        UserError: the instruction is empty, or there is no such model.
    """
    if not given.text.strip():
        raise UserError("say what is to be changed: the instruction is empty")
    if not 1 <= given.candidates <= MOST_CANDIDATES:
        raise UserError(f"{given.candidates} candidates: from 1 to {MOST_CANDIDATES} can be made")
    if not 0 <= given.seed < LARGEST_SEED:
        raise UserError(f"seed {given.seed}: from 0 to {LARGEST_SEED - 1} can be taken")
    picture_HWC, region_HW = target.picture(), target.region()
    reference_HWC = read_image(given.reference) if given.reference else None
    settings, root = target.config.editor, target.workspace.root
    room = _room(target.config)
    seeds = list(range(given.seed, given.seed + given.candidates))
    with open_image_editor(settings.model, root, settings.steps, settings.megapixels, room) as by:
        edited = list(by.edit(picture_HWC, region_HW, given.text, reference_HWC, seeds))
    folder = target.workspace.candidates(target.edit, target.frame)
    remove(folder)
    paths = [folder / f"{number}.png" for number in range(1, len(edited) + 1)]
    inside_HW1 = region_HW[..., None]  # without the feather, which is laid over when one is taken
    kept = [np.where(inside_HW1, one_HWC, picture_HWC) for one_HWC in edited]
    for path, one_HWC in zip(paths, kept, strict=True):
        write_png(path, one_HWC)
    nothing_HW = np.zeros(region_HW.shape, np.uint8)
    captions = [f"{number} (seed {seed})" for number, seed in enumerate(seeds, 1)]
    write_png(folder / SHEET, contact_sheet(kept, [nothing_HW] * len(kept), captions))
    return paths


def choose(target: FrameEdit, number: int) -> Path:
    """Lay a candidate on. Raises UserError: there is none of this number."""
    folder = target.workspace.candidates(target.edit, target.frame)
    path = folder / f"{number}.png"
    if not path.is_file():
        there = len(list(folder.glob("[0-9]*.png"))) or "no"
        raise UserError(f"{path} is missing: frame {target.frame} has {there} candidates")
    return target.lay(read_image(path), f"candidate {number}")


def _room(config: Config) -> int | None:
    """Bytes of the GPU's memory for an editor, within [memory] vram_budget_gb; None without one."""
    if devices.for_small_models() == "cpu":
        return None
    from maskora.app.open_base import hold_to, measured

    memory = measured(devices.chosen()).gpu
    assert memory is not None
    cap = config.memory.vram_budget_gb
    allowed = budget(None if cap == "auto" else cap, memory)
    hold_to(allowed, devices.chosen())
    return allowed.nbytes


def _step(target: FrameEdit, tools: Tools) -> AnyStep:
    """The step that the options describe. Raises UserError."""
    makers: dict[str, Callable[[], Step]] = {
        "recolour": lambda: _recolour(str(tools.recolour), tools.area),
        "swap": lambda: _swap(str(tools.swap), tools.area),
        "paint": lambda: _paint(str(tools.paint), tools.opacity),
        "restore": lambda: _restore(str(tools.restore), tools.opacity),
        "erase": lambda: _erase(str(tools.erase)),
        "place": lambda: _place(target, tools),
    }
    (name,) = tools.asked
    with _explained(name):
        return makers[name]()  # type: ignore[return-value]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Let what an option may not say be told with its name. Raises UserError."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"--{name}: {where or 'it'}: {first['msg']}") from None


def _recolour(text: str, area: Area) -> Recolour:
    hue, saturation, brightness = _numbers("recolour", text, 3, 3)
    return Recolour(hue=hue, saturation=saturation, brightness=brightness, area=area)


def _swap(text: str, area: Area) -> Swap:
    source, target, *rest = _words("swap", text, 2)
    tolerance = {"tolerance": _numbers("swap", ",".join(rest), 1, 1)[0]} if rest else {}
    return Swap(source=source, target=target, area=area, **tolerance)


def _paint(text: str, opacity: float) -> Paint:
    colour, rest = _words("paint", text, 4)[0], text.partition(",")[2]
    radius, points = _stroke("paint", rest)
    return Paint(colour=colour, radius=radius, points=points, opacity=opacity)


def _restore(text: str, opacity: float) -> Paint:
    radius, points = _stroke("restore", text)
    return Paint(radius=radius, points=points, opacity=opacity)


def _erase(text: str) -> Erase:
    if text == "object":
        return Erase()
    radius, points = _stroke("erase", text)
    return Erase(radius=radius, points=points)


def _place(target: FrameEdit, tools: Tools) -> PlacePicture:
    assert tools.place is not None
    if tools.at is None:
        raise UserError("--place PICTURE: say where, with --at X,Y,WIDTH[,ANGLE]")
    x, y, width, *angle = _numbers("at", tools.at, 3, 4)
    stored = target.store(read_with_alpha(tools.place))
    return PlacePicture(
        picture=stored, x=x, y=y, width=width, angle=angle[0] if angle else 0.0,
        blend=tools.blend, opacity=tools.opacity,
    )  # fmt: skip


def _words(option: str, text: str, least: int) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if len(words) < least:
        raise UserError(f"--{option} {text}: at least {least} values with commas are needed")
    return words


def _numbers(option: str, text: str, least: int, most: int | None) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = [float("nan")]
    counts = len(numbers) >= least and (most is None or len(numbers) <= most)
    if not counts or not np.isfinite(numbers).all():
        wanted = least if most == least else f"{least} or more"
        raise UserError(f"--{option} {text}: write {wanted} numbers with commas")
    return numbers


def _stroke(option: str, text: str) -> tuple[float, tuple[tuple[float, float], ...]]:
    radius, *flat = _numbers(option, text, 3, None)
    if len(flat) % 2:
        raise UserError(f"--{option} {text}: after the radius come pairs X,Y of a stroke")
    return radius, tuple(zip(flat[::2], flat[1::2], strict=True))


def _written(target: FrameEdit, path: Path | None) -> str:
    history = target.history()
    if path is None:
        return f"frame {target.frame}: no longer edited"
    return f"{path}: step {history.done} of {len(history.steps)}"
