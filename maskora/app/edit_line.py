"""edit: one edit in a line, from a video, a mask and edited frames to a result.

Every stage runs as a `maskora` process of its own, so that a failing one gives back all its memory.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskora import devices
from maskora.app.masking import to_original, to_workspace
from maskora.app.processes import crash_message, run_maskora
from maskora.app.remembered import known_sha256
from maskora.app.remote import (
    default_scratch,
    fetch,
    is_remote,
    local_place,
    printable_url,
    put,
)
from maskora.app.workspace import LineRecord, Workspace, video_sha256, working
from maskora.config.toml import load_config
from maskora.errors import Fault, UserError
from maskora.files import IMAGE_SUFFIXES, IMAGES, digest, refuse_inputs, replacing
from maskora.masks.prompts import parse_click
from maskora.system import quoted

FOR_PREPARE = ("--base", "--frames", "--size", "--fps", "--caption", "--edited-caption")
REPEATABLE = ("--click", "--keyframe", "--set")
OPTIONS = (
    "--mask", "--workspace", "--device", "--preset", "--seed", "--stop-before", "--scratch",
    *FOR_PREPARE, *REPEATABLE,
)  # fmt: skip
SEE_EDIT = "maskora edit --help lists the options"
STOP = "--stop-before=train"
Say = Callable[[str], None]  # takes a line for the person


@dataclass(frozen=True)
class EditLine:
    """The command line of `maskora edit`, checked as far as it can be before any work.

    A video, a mask and edited frames may lie in a store, until `fetch_inputs`; an output may too.

    Attributes:
        video: empty where the workspace was prepared before, and says itself what it was made from.
        region: `--box …` or `--mask …`, or nothing.
        options, clicks, settings, preset, device: words for the commands: those of `prepare`;
            `--click …`; `--set …`; `--preset`, and `--device`, or nothing.
        seed: `--seed`, or nothing.
        edits: frame of the workspace -> edited image. Frame 0 is there, if there is a video.
        output: on this machine.
        url: where the output is put then; empty where it stays.
        scratch: the folder for what comes from a store, and what goes there.
        prepares_only: `--stop-before train`.
    """

    video: str
    region: list[str]
    options: list[str]
    clicks: list[str]
    settings: list[str]
    preset: list[str]
    device: list[str]
    seed: list[str]
    edits: dict[int, str]
    output: Path
    url: str
    scratch: Path
    workspace: Workspace
    prepares_only: bool


def edit_video(words: Sequence[str], say: Say) -> int:
    """Prepare, track what was clicked, train and infer; or continue where that stands.

    Args:
        words: the command line after `maskora edit`.

    Returns:
        the exit status of the first stage that failed, which has said why; 0 where all is done.

    Raises:
        UserError: the line is wrong; then nothing has begun.
        Fault: a stage was killed.
    """
    line = fetch_inputs(parse_edit_line(words))
    check_files(line)
    is_new = not line.workspace.config.is_file()
    if status := _prepare(line, say):
        return status
    with working(line.workspace):
        for frame, image in line.edits.items():
            place_edit(line.workspace, None, frame, Path(image))
    if line.prepares_only:
        say(f"edit: {line.workspace.root} is ready for training")
        return 0
    if is_new:  # they are in the workspace's configuration now
        line = replace(line, preset=[], settings=[])
    return _train_and_infer(line, say)


def _prepare(line: EditLine, say: Say) -> int:
    """Prepare the workspace, if it is not there yet, and follow what was clicked."""
    workspace, settings = line.workspace, line.settings
    if not line.video:
        if problems := workspace_problems(line):
            raise UserError("\n".join(problems))
        say(f"edit: continuing with {workspace.root}")
    elif workspace.config.is_file():
        settle_video(workspace, Path(line.video), say)
        _check_same_preparation(line)
        say(f"edit: {workspace.root} is prepared already: continuing with it")
    else:
        say(f"edit: preparing {workspace.root}")
        given = [*line.region, *line.options, *line.preset, *settings]
        if status := _run_stage("prepare", line.video, str(workspace.root), *given):
            return status
        _note(workspace, _said_of_preparation(line))
        settings = []
    if line.clicks and not workspace.mask_record.is_file():
        say("edit: following what was clicked")
        if status := _run_stage("track", str(workspace.root), *line.clicks, *settings):
            return status
        if before := workspace.read_line():
            _note(workspace, before.said | _said_of_clicks(line))
    return 0


def _note(workspace: Workspace, said: dict[str, str]) -> None:
    with working(workspace):
        LineRecord(said=said).write(workspace.line_record)


def _train_and_infer(line: EditLine, say: Say) -> int:
    """Train, make the clips, and copy them to where they were asked for."""
    config = ["--config", str(line.workspace.config), *line.device, *line.preset, *line.settings]
    say("edit: training")
    if status := _run_stage("train", *config, "--stage", "all", "--resume"):
        return status
    say(f"edit: making {line.output}")
    results = results_of(line)
    copied = ["--output", str(line.output)] if len(results) == 1 else []
    if status := _run_stage("infer", *config, *line.seed, *copied):
        return status
    for made, result in results.items() if not copied else ():
        with replacing(result) as scratch:
            shutil.copyfile(made, scratch)
    places = [place_of(line, result) for result in results.values()]
    for result, place in zip(results.values(), places, strict=True) if line.url else ():
        put(result, place)
    say(f"edit: done: {', '.join(places)}")
    return 0


def place_of(line: EditLine, result: Path) -> str:
    """Where one of the results stays: its path, or its URL in a store."""
    return f"{line.url.rpartition('/')[0]}/{result.name}" if line.url else str(result)


def fetch_inputs(line: EditLine) -> EditLine:
    """The line with local copies of what lies in stores. Raises UserError, Fault."""

    def local(place: str) -> str:
        return str(fetch(place, line.scratch)) if is_remote(place) else place

    region = line.region and [line.region[0], local(line.region[1])]
    edits = {frame: local(image) for frame, image in line.edits.items()}
    return replace(line, video=local(line.video), region=region, edits=edits)


def check_files(line: EditLine) -> None:
    """The files that a line names are there, and no result is written over one. Raises UserError.

    Args:
        line: all its files are on this machine.
    """
    if line.video and not Path(line.video).exists():
        raise UserError(f"no such video: {line.video}")
    masks = line.region[1:] if "--mask" in line.region else []
    for mask in masks:
        if not Path(mask).exists():
            raise UserError(f"no such mask: {mask}")
    for image in line.edits.values():
        if not Path(image).is_file():
            raise UserError(f"no such image: {image}")
        if Path(image).suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"not a picture that can be read ({IMAGES}): {image}")
    bases = line.options[1::2] if "--base" in line.options[:1] else []
    read = files_in(*([line.video] if line.video else []), *masks, *bases, *line.edits.values())
    refuse_inputs(results_of(line).values(), read)


def results_of(line: EditLine) -> dict[Path, Path]:
    """Each video that is made in the workspace -> its copy: OUT.mp4, of several OUT-seed-N.mp4."""
    seeds = line.seed[-1].split(",") if line.seed else []
    if len(seeds) < 2:
        return {line.workspace.output_dir(None, None) / "edited.mp4": line.output}
    return {
        line.workspace.output_dir(None, int(seed) if number else None) / "edited.mp4":
        line.output.with_name(f"{line.output.stem}-seed-{seed}.mp4")
        for number, seed in enumerate(seeds)
    }  # fmt: skip


def settle_video(workspace: Workspace, video: Path, say: Say) -> None:
    """A workspace that is there was made from this video, which may have been moved meanwhile.

    Raises:
        UserError: it was made from another one.
    """
    if not workspace.source_record.is_file():
        return  # the first stage says what is wrong with it
    source = workspace.read_source()
    origin, recorded = Path(source.origin), source.origin_sha256
    if recorded is not None:
        is_same = video_sha256(video) == recorded
    else:
        is_same = video.resolve() == origin or (origin.exists() and video.samefile(origin))
    if not is_same:
        changed = video.resolve() == origin
        what = "it has another content now" if changed else f"{video} is another video"
        raise UserError(
            f"{workspace.root} was made from {origin}, and {what}: name another --workspace (or "
            f"another OUT.mp4), or remove {workspace.root} to begin anew"
        )
    if not origin.exists():
        with working(workspace):
            moved = {"origin": str(video.resolve())}
            workspace.write_source(source.model_copy(update=moved))
        say(f"edit: {origin} was moved: {video}, which is the same, takes its place")


def _check_same_preparation(line: EditLine) -> None:
    """A workspace that a line has prepared is gone on with by lines that say the same of that.

    Raises:
        UserError: this one says something else, which would have no effect.
    """
    root, before = line.workspace.root, line.workspace.read_line()
    if before is None:
        return
    said, now = dict(before.said), _said_of_preparation(line)
    if "--click" in said and line.workspace.mask_record.is_file():
        now |= _said_of_clicks(line)
    else:
        said.pop("--click", None)  # they are followed anew, or it was not noted
    if changed := sorted(name for name in {*said, *now} if said.get(name) != now.get(name)):
        raise UserError(
            f"{root} was prepared with another {', '.join(changed)}: say the same as then, name "
            f"another --workspace (or another OUT.mp4), or remove {root} to begin anew"
        )


def _said_of_preparation(line: EditLine) -> dict[str, str]:
    """What a line says of its preparation, by option; of a file or a folder what is in it."""
    words = [*line.region, *line.options]
    said = dict(zip(words[::2], words[1::2], strict=True))
    for name in ("--mask", "--base"):
        if name in said:
            files = sorted(path for path in files_in(said[name]) if path.is_file())
            said[name] = digest(*map(known_sha256, files))
    return said


def _said_of_clicks(line: EditLine) -> dict[str, str]:
    return {"--click": " ".join(line.clicks[1::2])} if line.clicks else {}


def workspace_problems(line: EditLine) -> list[str]:
    """What is wrong with a line that names a workspace in place of a video; [] if nothing is."""
    workspace, problems = line.workspace, []
    try:
        source = workspace.read_source()
        refuse_inputs(results_of(line).values(), workspace.given_files(source.origin))
        config = load_config(
            workspace.config, line.settings[1::2], line.preset[-1] if line.preset else None
        )
    except UserError as error:
        return [str(error)]
    has_first = 0 in line.edits or workspace.edited_files(None, 0)
    if not has_first and config.motion.task != "remove":
        problems.append(
            f"no edited frame 0: put it into {workspace.edits_dir} as 00000.png, or give it here"
        )
    try:
        problems += _click_problems(line)
    except UserError as error:
        problems.append(str(error))
    return problems


def _click_problems(line: EditLine) -> list[str]:
    """Clicks make the masks of a workspace that has none; raises UserError for a wrong click."""
    workspace = line.workspace
    if not workspace.mask_record.is_file():
        return [] if line.clicks else [f"{workspace.masks_dir} is not there yet: give clicks"]
    placement, tracking = workspace.read_source().placement, workspace.read_tracking()
    clicked = [to_workspace(parse_click(text), placement) for text in line.clicks[1::2]]
    followed = [{"click": str(to_original(click, placement))} for click in clicked]
    if not clicked or (tracking and followed == list(tracking.prompts)):
        return []
    return [
        f"clicks: {workspace.masks_dir} is there already, and was not made from these: leave the "
        f"clicks out, or have them followed in its place: maskora track {quoted(workspace.root)}"
    ]


def parse_edit_line(words: Sequence[str]) -> EditLine:
    """Read a command line; what it names need not be there yet. Raises UserError."""
    positional, given = split_words(words)
    last = {name: values[-1:] for name, values in given.items()}
    video, box, edited, output = _positional(positional, given)
    if Path(output).suffix.lower() != ".mp4":
        raise UserError(f"the output is an .mp4 file, not {printable_url(output)}")
    for device in given["--device"]:
        devices.parse(device)
    edits = {0: edited} if edited else {}
    edits |= dict(_keyframe(text) for text in given["--keyframe"])
    for seeds in last["--seed"]:
        if not re.fullmatch(r"[0-9]+(,[0-9]+)*", seeds):
            raise UserError(f"--seed is written N or N,N,…, not {seeds}")
        numbers = list(map(int, seeds.split(",")))
        if len(set(numbers)) < len(numbers) or max(numbers) >= 2**32:
            raise UserError(f"--seed {seeds}: write different whole numbers below 2^32")
    if any(stage != "train" for stage in given["--stop-before"]):
        raise UserError("--stop-before train is the only place to stop")
    scratch = Path(last["--scratch"][0]) if last["--scratch"] else default_scratch()
    local = local_place(output, scratch) if is_remote(output) else Path(output)
    return EditLine(
        video=video,
        region=region_words(box, last["--mask"]),
        options=words_of(last, *FOR_PREPARE),
        clicks=words_of(given, "--click"),
        settings=words_of(given, "--set"),
        preset=words_of(last, "--preset"),
        device=words_of(last, "--device"),
        seed=words_of(last, "--seed"),
        edits=edits,
        output=local,
        url=output if is_remote(output) else "",
        scratch=scratch,
        workspace=_workspace(given["--workspace"], local),
        prepares_only=bool(given["--stop-before"]),
    )


def _workspace(named: list[str], output: Path) -> Workspace:
    """The workspace that a line names, or the one beside its output."""
    if named and is_remote(named[-1]):
        raise UserError(f"--workspace {named[-1]}: a workspace lies on a disk, in no store")
    return Workspace.open(Path(named[-1]) if named else output.with_suffix(".work"))


def _positional(
    positional: list[str], given: dict[str, list[str]]
) -> tuple[str, list[str], str, str]:
    """The video, the box, the edited frame and the output; of a workspace alone, the output."""
    if given["--mask"] and given["--click"]:
        raise UserError("--mask and --click: give one of them")
    if len(positional) == 1 and given["--workspace"]:
        if useless := [name for name in ("--mask", *FOR_PREPARE) if given[name]]:
            raise UserError(
                f"{', '.join(useless)}: {given['--workspace'][-1]} is prepared already, and keeps "
                f"what it has: leave that out, or name the VIDEO to prepare another workspace"
            )
        return "", [], "", positional[0]
    named = next((f" beside {name}" for name in ("--mask", "--click") if given[name]), "")
    wanted = ["VIDEO", *([] if named else ["X,Y,W,H"]), "EDITED_FRAME", "OUT.mp4"]
    if len(positional) != len(wanted):
        raise UserError(
            f"expected {' '.join(wanted)}{named}, got {len(positional)} of them ({SEE_EDIT})"
        )
    video, *box, edited, output = positional
    return video, box, edited, output


def files_in(*paths: str) -> list[Path]:
    """Files, and those in folders."""
    return [
        file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])
    ]


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The positional words, and option -> all values that it was given. Raises UserError.

    Options may stand anywhere on the line, also after a lone --.
    """
    positional: list[str] = []
    given: dict[str, list[str]] = {name: [] for name in OPTIONS}
    waiting = iter(words)
    for word in waiting:
        name, sign, value = word.partition("=")
        if word == "--":
            continue
        if not word.startswith("-"):
            positional.append(word)
            continue
        if name not in given:
            raise UserError(f"unknown option {name} ({SEE_EDIT})")
        if not sign:
            try:
                value = next(waiting)
            except StopIteration:
                raise UserError(f"{name} needs a value ({SEE_EDIT})") from None
        if name in ("--base", "--preset") and is_remote(value):
            raise UserError(f"{name} {value}: it lies on a disk, in no store")
        given[name].append(value)
    return positional, given


def words_of(given: dict[str, list[str]], *names: str) -> list[str]:
    """Options as words of a command line."""
    return [word for name in names for value in given[name] for word in (name, value)]


def region_words(box: list[str], masks: list[str]) -> list[str]:
    """Where the edit is, as words of a command line; [] where it is clicked. Raises UserError."""
    for text in box:
        if not re.fullmatch(r"[0-9]+(,[0-9]+){3}", text):
            raise UserError(f"the box is written X,Y,W,H in pixels, not {text}")
        return ["--box", text]
    return ["--mask", masks[0]] if masks else []


def _keyframe(text: str) -> tuple[int, str]:
    number, _, path = text.partition("=")
    if not (re.fullmatch(r"[0-9]+", number) and path):
        raise UserError(f"--keyframe is written N=IMAGE (24=frame24.png), not {text}")
    return int(number), path


def place_edit(workspace: Workspace, edit: str | None, frame: int, image: Path) -> None:
    """Copy an edited image to a frame of an edit, in place of an earlier one."""
    target = workspace.edited_frame(edit, frame, image.suffix.lower())
    earlier = workspace.edited_files(edit, frame)
    if not any(path.samefile(image) for path in earlier):
        with replacing(target) as scratch:
            shutil.copyfile(image, scratch)
        image = target
    for path in earlier:
        if not path.samefile(image):
            path.unlink()


def _run_stage(*words: str) -> int:
    """One stage's exit status. Raises Fault where it crashed, so that it could not say why."""
    status = run_maskora(words)
    if crash := crash_message(words[0], status):
        raise Fault(crash)
    return status
