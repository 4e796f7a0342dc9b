"""Every command of the shell: its options, and how failures become messages and exit statuses.

Nothing heavy is imported before a command runs.
"""

import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand

from maskora import __version__, devices, interruption, ranks
from maskora.app import together
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.config.tables import MOST, Family, Task, TrackerKind
from maskora.errors import Fault, UserError
from maskora.streaming.out_of_memory import first_line, ran_out_of
from maskora.system import (
    REPORTED_ERRNOS,
    check_utf8,
    explain,
    printable,
    quieten_libraries,
    show_any_character,
)

Given = ParamSpec("Given")
Answer = TypeVar("Answer")
ConfigOption = Annotated[Path, typer.Option("--config", help="WORKSPACE/edit.toml")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="change a setting for this run"),
]
PresetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="a method, over the settings (configs/presets)"),
]
EditOption = Annotated[
    str | None, typer.Option("--edit", metavar="NAME", help="a further edit: edits/NAME/")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="cpu|cuda|cuda:N", help="where to compute; if not said, on a GPU"),
]
Area = Literal["object", "region"]  # of retouch.py, which needs the library of pictures
Blend = Literal["normal", "multiply", "screen"]
LocalRankOption = Annotated[  # the launcher of DeepSpeed gives it; the environment says it, too
    int | None, typer.Option("--local_rank", "--local-rank", hidden=True)
]
FIRST = 10.0  # seconds in which the first process ends, and its launcher the others
TinyFamily = Literal["wan2.1-i2v", "wan2.1-fun-inp", "wan2.2-i2v"]  # of models/tiny.py


class _Program(typer.Typer):
    """All commands; what the machine refuses before one of them begins is told in the same way."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except (OSError, MemoryError, ImportError) as error:
            failure = _failure(error, interrupted=False)
            if failure is None:
                raise
            status, message = failure
        print(printable(f"maskora: {message}"), file=sys.stderr)
        raise SystemExit(status)


app = _Program(
    name="maskora",
    help="Carry an edit of a video's first frame through the whole clip.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def handle_errors(command: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Turn the failures that a person can act on into one message and an exit status."""

    @functools.wraps(command)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        show_any_character()
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable("%(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        logging.getLogger("maskora").setLevel(logging.INFO)
        quieten_libraries()
        interruption.catch()
        try:
            check_utf8(_texts([*args, *kwargs.values()]))
            answer = command(*args, **kwargs)
            interruption.check()  # none is lost, however late it was
            return answer
        except BaseException as error:  # a panic of a library in Rust is no Exception
            failure = _failure(error, interruption.came())
            if failure is None:
                raise
            status, message = failure
        finally:
            interruption.forget()
        _report(status, message, ranks.launched() if "local_rank" in kwargs else None)
        raise typer.Exit(status)

    return wrapper


def _report(status: int, message: str, place: ranks.Launch | None) -> None:
    """Print why a command ends.

    Of several processes the first says what they all have to say, and its launcher ends the others
    then. Who is not ended has something of its own to say.
    """
    if place is None or place.rank == 0:
        print(printable(f"maskora: {message}"), file=sys.stderr)
        return
    if ranks.joined().count > 1:
        logging.getLogger("maskora").error("%s", message)  # into its own log
    if status == 130 or (status == 2 and _ended_within(FIRST)):
        return
    which = f"process {place.rank} of {place.count}"
    print(printable(f"maskora ({which}): {message}"), file=sys.stderr)


def _ended_within(seconds: float) -> bool:
    """Wait for a while. Whether somebody wants this process to end meanwhile."""
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        return True
    return False


class _Printable(logging.Formatter):
    """Messages as a terminal may show them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _texts(given: Iterable[object]) -> Iterator[str]:
    """Every text among a command's arguments."""
    for one in given:
        if isinstance(one, list):
            yield from _texts(one)
        elif isinstance(one, str | Path):
            yield str(one)
        else:  # the context of a command that gets its line as it was typed
            yield from getattr(one, "args", ())


def _failure(error: BaseException, interrupted: bool) -> tuple[int, str] | None:
    """Exit status and message; None for a bug, whose traceback is shown."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Fault):
        return 1, str(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        line = error.object[: error.end].splitlines()[-1]  # the rest is not needed to find it
        return 2, f"a name is not in UTF-8, and cannot be written down: rename it ({line}…)"
    if isinstance(error, OSError) and error.errno in REPORTED_ERRNOS:
        return 1, explain(error)
    memory = ran_out_of(error)
    return None if memory is None else (1, _out_of_memory(memory, error))


def _out_of_memory(memory: Literal["VRAM", "RAM"], error: BaseException) -> str:
    if memory == "VRAM":
        return (
            f"the GPU's memory is too small for this run ({first_line(error)}). End what else uses "
            f"the GPU (nvidia-smi lists it), or use a smaller size, fewer frames, "
            f'model.transformer_dtype = "float8", or a smaller base such as Wan2.1-Fun-1.3B-InP.'
        )
    return (
        f"the machine's RAM is too small for this run ({first_line(error)}). Close other programs, "
        f'or use memory.weights = "mapped", which leaves the weights on disk, '
        f'model.transformer_dtype = "float8", a smaller size or fewer frames.'
    )


def _say(text: str) -> None:
    print(printable(text), flush=True)


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        _say(line)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maskora {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    pass


@app.command()
@handle_errors
def prepare(
    video: Annotated[Path, typer.Argument(help="a video file, or a folder of images")],
    workspace: Annotated[Path, typer.Argument(help="the folder to make for this edit")],
    mask: Annotated[
        Path | None,
        typer.Option(help="where the edit is: a folder of masks, a mask video, or one image"),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="the same as a box, in pixels of the original"),
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="what the edit does there; default: change")
    ] = None,
    follow: Annotated[
        str | None,
        typer.Option(
            metavar="background|X,Y",
            help="what the box moves with: the background, or the thing at a point of frame 0",
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="start from this configuration (configs/NAME.toml)")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="N|all", help="how many frames; default 49")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="or auto (the default)")] = None,
    fps: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="frames per second; of images too (default: 16)"),
    ] = None,
    start: Annotated[int | None, typer.Option(help="first frame, from 0")] = None,
    every: Annotated[int | None, typer.Option(help="take every K-th frame")] = None,
    caption: Annotated[str | None, typer.Option(help="what the video shows")] = None,
    edited_caption: Annotated[str | None, typer.Option(help="what the edited one shows")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="prepare an existing workspace anew (keeps edits/)")
    ] = False,
    preset: PresetOption = None,
    set_: SetOption = None,
) -> None:
    """Cut a video into a workspace: frames, masks, and a commented edit.toml."""
    from maskora.app.prepare import prepare_workspace

    number = int(frames) if frames is not None and frames.isdecimal() else frames
    given = {
        "video.frames": number, "video.size": size, "video.fps": fps, "video.start": start,
        "video.every": every, "prompt.caption": caption, "prompt.edited_caption": edited_caption,
        "motion.task": task,
    }  # fmt: skip
    given = {key: value for key, value in given.items() if value is not None}
    overrides = set_ or []
    _say_all(
        prepare_workspace(
            video, workspace, mask, box, base, given, overrides, overwrite, preset, follow=follow
        )
    )


@app.command()
@handle_errors
def track(
    workspace: Annotated[Path, typer.Argument(help="a prepared workspace")],
    click: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FRAME,X,Y,+|-[,OBJECT]",
            help="a point of the object (+), or not of it (-), in pixels of the original",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAME,X,Y,W,H[,OBJECT]", help="a rectangle around the object"),
    ] = None,
    paint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FRAME,PNG[,OBJECT]",
            help="the object's mask in that frame, painted by hand: a picture, white where it is",
        ),
    ] = None,
    tracker: Annotated[TrackerKind | None, typer.Option(help="who follows; see [tracker]")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="of sam2: a hub id, a folder, or an original .pt file")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace masks that were painted by hand")
    ] = False,
    set_: SetOption = None,
) -> None:
    """Follow marked objects through the clip, and make masks of them."""
    from maskora.app.masking import track_workspace
    from maskora.masks.prompts import parse_paint

    given = {"type": tracker, "checkpoint": _from_here(checkpoint)}
    painted = [parse_paint(one) for one in paint or []]
    paintings = [f"{frame},{Path(path).resolve()},{number}" for frame, path, number in painted]
    lists = {"clicks": click, "boxes": box, "paintings": paintings}
    lists = lists if any(lists.values()) else {}
    overrides = [f"tracker.{key}={json.dumps(value)}" for key, value in given.items() if value]
    overrides += [f"tracker.{key}={json.dumps(value or [])}" for key, value in lists.items()]
    place = Workspace.open(workspace)
    place.read_source()
    config = load_config(place.config, [*(set_ or []), *overrides])
    track_workspace(config, place, overwrite, _say)


def _from_here(path: str | None) -> str | None:
    """A path typed at the prompt counts from here, not from the workspace."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


@app.command()
@handle_errors
def gui(
    workspace: Annotated[
        Path | None, typer.Argument(help="a workspace to begin with; or make one in the window")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    host: Annotated[
        str, typer.Option(help="the address to listen on; this machine alone, if not given")
    ] = "127.0.0.1",
    allow: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="a folder that the page may use, beside the current one"),
    ] = None,
    max_upload_mb: Annotated[float, typer.Option(help="largest upload", min=1)] = 2000,
    max_seconds: Annotated[float, typer.Option(help="longest uploaded video", min=1)] = 600,
    max_megapixels: Annotated[float, typer.Option(help="largest uploaded picture", min=0.01)] = 9,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """The window: click the object, edit frames, train and infer, in a browser."""
    from maskora.app.gui import start_gui
    from maskora.video.untrusted import Limits

    limits = Limits.of(max_upload_mb, max_seconds, max_megapixels)
    start_gui(workspace, host, port, allow or [], limits, browser)
    interruption.forget()  # Ctrl-C is how it ends


@app.command()
@handle_errors
def evaluate(
    workspace: Annotated[Path, typer.Argument(help="a workspace that infer.py has run in")],
    edit: EditOption = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="of several; if not given, the run's first")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="the true edited frames, where they are known"),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="a CLIP: similarity to the edit and the source"),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="with --clip: the mask's inside is compared with it"),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="a CLIP: quality without a reference"),
    ] = None,
) -> None:
    """Judge a result: report.html and report.json beside it, with numbers, curves and pictures."""
    from maskora.app.evaluate import evaluate_result

    _say_all(evaluate_result(workspace, edit, seed, truth, clip, reference, quality))


@app.command()
@handle_errors
def edit_frame(
    workspace: Annotated[Path, typer.Argument(help="a prepared workspace with masks")],
    frame: Annotated[int, typer.Option(min=0, help="which frame; 0 is the first")],
    edit: EditOption = None,
    recolour: Annotated[
        str | None,
        typer.Option(metavar="HUE,SATURATION,BRIGHTNESS", help="degrees, percent, percent"),
    ] = None,
    swap: Annotated[
        str | None,
        typer.Option(metavar="FROM,TO[,TOLERANCE]", help="a colour becomes another: #rrggbb"),
    ] = None,
    paint: Annotated[
        str | None,
        typer.Option(metavar="COLOUR,RADIUS,X,Y[,X,Y…]", help="a stroke, in pixels of the frame"),
    ] = None,
    restore: Annotated[
        str | None, typer.Option(metavar="RADIUS,X,Y[,X,Y…]", help="bring the source back")
    ] = None,
    erase: Annotated[
        str | None,
        typer.Option(metavar="object|RADIUS,X,Y[,X,Y…]", help="fill it from what is around"),
    ] = None,
    place: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="lay a picture on, with --at")
    ] = None,
    copy: Annotated[
        str | None, typer.Option(metavar="N[,DX,DY]", help="lay frame N on, moved by pixels")
    ] = None,
    from_result: Annotated[
        bool, typer.Option("--from-result", help="begin with what the result shows in this frame")
    ] = False,
    carry: Annotated[
        bool,
        typer.Option("--carry", help="begin with what the base makes of it after the edited frame"),
    ] = False,
    instruct: Annotated[
        str | None, typer.Option(metavar="TEXT", help="let the model of [editor] change it")
    ] = None,
    choose: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="take one of several candidates")
    ] = None,
    pick: Annotated[
        str | None, typer.Option(metavar="X,Y", help="tell the colour of a pixel")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="take the last step back")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="make it again")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="list the steps")] = False,
    area: Annotated[
        Area, typer.Option(help="of --recolour and --swap: the silhouette, or all of the region")
    ] = "object",
    at: Annotated[
        str | None,
        typer.Option(metavar="X,Y,WIDTH[,ANGLE]", help="of --place: its middle, width and turn"),
    ] = None,
    blend: Annotated[Blend, typer.Option(help="of --place")] = "normal",
    opacity: Annotated[
        float, typer.Option(min=0, max=1, help="of --place, --paint and --restore")
    ] = 1.0,
    edited: Annotated[
        bool, typer.Option("--edited", help="of --copy: frame N as edited, not as in the video")
    ] = False,
    reference: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="of --instruct: to take something from")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="of --instruct: how many pictures")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="of --instruct: of the first candidate")] = 0,
    device: DeviceOption = None,
    set_: SetOption = None,
) -> None:
    """Edit a frame here: one tool at a time, inside the region, each step undoable."""
    from maskora.app.edit_frame import Instruction, Tools
    from maskora.app.edit_frame import edit_frame as use_tool
    from maskora.app.retouching import FrameEdit

    place_of = Workspace.open(workspace)
    place_of.read_source()
    target = FrameEdit(place_of, load_config(place_of.config, set_ or []), edit, frame)
    tools = Tools(
        recolour, swap, paint, restore, erase, place, copy, from_result, carry, instruct, choose,
        pick, undo, redo, steps, area, at, blend, opacity, edited,
    )  # fmt: skip
    instruction = None
    if carry or instruct is not None:
        devices.choose(device)
    if instruct is not None:
        instruction = Instruction(instruct, reference, candidates, seed)
    elif reference is not None or candidates != 1 or seed:
        logging.getLogger("maskora").warning(
            "note: --reference, --candidates and --seed have no effect without --instruct"
        )
    _say_all(use_tool(target, tools, instruction))


EDIT_HELP = """\
Usage: maskora edit VIDEO X,Y,W,H EDITED_FRAME OUT.mp4 [options]
       maskora edit VIDEO --mask PATH EDITED_FRAME OUT.mp4 [options]
       maskora edit VIDEO --click FRAME,X,Y,+ EDITED_FRAME OUT.mp4 [options]

Carries an edit of a video's first frame through the clip: prepares the workspace, trains on this
one clip, and writes the edited video.

  VIDEO           the source video, or a folder of images
  X,Y,W,H         the box of the edit, in pixels of the video; --mask or --click takes its place
  EDITED_FRAME    the clip's first frame, edited: png, jpg, webp, bmp or tif, in the shape of the
                  video or of the workspace
  OUT.mp4         the edited video

Options (anywhere on the line; a lone -- is ignored)
  --mask PATH             a folder of mask images, or a mask video, instead of the box
  --click FRAME,X,Y,+     a point of the object, which is followed through the clip instead of the
                          box; - instead of + is a point beside it; repeatable (maskora track)
  --keyframe N=IMAGE      another edited frame: frame N of the workspace; repeatable
  --base FILE             the configuration to start from (configs/NAME.toml)
  --frames N|all          length of the clip
  --size WxH              size of the workspace
  --fps RATE              frames per second; of a folder of images too (16, if not said)
  --caption TEXT          what the source shows
  --edited-caption TEXT   what the edit shows
  --preset NAME           a method (configs/presets), over which --set goes
  --set TABLE.KEY=VALUE   any key of the configuration; repeatable
  --device DEVICE         cpu, cuda or cuda:N, for training and inference
  --seed N[,N…]           instead of inference.seed; of several, the clips are OUT-seed-N.mp4
  --workspace DIR         where the work is kept (default: OUT.work)
  --scratch DIR           where copies of what lies in a store are kept (default: the user's cache)
  --stop-before train     end where training would begin; the same line without it goes on
  --help                  this text

Run it again with the same workspace to continue: prepare is skipped then, so the box, the mask,
--base, --frames, --size, --fps and the captions stay as they were, and --preset and --set count for
that run. A workspace that is prepared needs no more than maskora edit OUT.mp4 --workspace DIR.

The video, the mask, edited frames and OUT.mp4 may be URLs (s3://BUCKET/NAME; docs/batches.md).

Example
  maskora edit walk.mp4 180,60,140,400 walk_red.png walk_red.mp4 --frames 17
"""
BATCH_HELP = """\
Usage: maskora batch JOBS_DIR|JOBS.toml [OUT_DIR] [options] [-- options for every job]

Runs maskora edit on every [[job]] of JOBS.toml (docs/batches.md), or on every sub-folder of
JOBS_DIR in the order of their names, which is


  video.mp4 (.mov, .mkv, .webm)     the source video, or a folder of images named video
  box.txt, clicks.txt or mask/      the box X,Y,W,H in pixels of the video; or points to follow, a
                                    line FRAME,X,Y,+ or FRAME,X,Y,- each; or a folder of masks
  edited.png (.jpg, .tif, …)        the edited first frame
  keyframes/N.png (…)               more edited frames, N the frame's number     (optional)
  caption.txt, edited_caption.txt   what the source and the edit show            (optional)
  options.txt                       more options of edit, one a line, such as    (optional)
                                      --frames 17
                                      --set inference.steps=20
                                    the rest of a line is the value, without quotes; # comments;
                                    --base, --caption, --device, --edited-caption, --fps, --frames,
                                    --preset, --set and --size are the options that a job may have

A link in a job's folder must not lead out of JOBS_DIR.

Texts are UTF-8. JOB.mp4, JOB.log and JOB.work (the workspace) go into OUT_DIR; by default
JOBS_DIR-out. Paths in options are relative to where batch was started. A job's own options win over
those for every job. Run it again to continue where it stopped: a job whose line and files are the
same, and whose result is there, is not done again. OUT_DIR/batch.json says how far each job is, and
batch.html shows the results.

  --workers N   so many jobs at a time; by default one per GPU, each with a GPU of its own
  --ray ADDRESS on a Ray cluster, HOST:PORT or auto for this machine's (docs/batches.md)
  --part I/N    every N-th job from the I-th alone: N machines with one disk share a batch
  --scratch DIR where copies of what lies in a store are kept, if OUT_DIR or a file is a URL
  --watch       a table that is drawn anew while the jobs run, on a terminal

Exit status: 0 all jobs done, 1 some failed, 2 wrong arguments, 130 interrupted.

Example
  maskora batch jobs results -- --base configs/NAME.toml
"""


class OwnLine(TyperCommand):
    """edit or batch: it gets its line as it was typed; --help prints the text above."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep every word, but for --help; of batch, what stands after -- is for the jobs."""
        is_batch = self.name == "batch"
        own = args[: args.index("--")] if is_batch and "--" in args else args
        if "--help" in own or "-h" in own:
            typer.echo(BATCH_HELP if is_batch else EDIT_HELP, nl=False)
            ctx.exit()
        ctx.args = list(args)
        return ctx.args


@app.command(cls=OwnLine)
@handle_errors
def edit(context: typer.Context) -> None:
    """Prepare, train and infer in one line: a video, a box and an edited frame in, a clip out."""
    from maskora.app.edit_line import edit_video

    raise typer.Exit(edit_video(context.args, _say))


@app.command(cls=OwnLine)
@handle_errors
def batch(context: typer.Context) -> None:
    """Run edit on every folder of a folder of jobs; a failing one stops no other."""
    from maskora.app.batch import run_batch

    raise typer.Exit(run_batch(context.args, _say))


@app.command()
@handle_errors
def check(
    config: ConfigOption,
    edit: EditOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
) -> None:
    """Check the configuration, the workspace and the edited frames; loads no model."""
    from maskora.app.preflight import check_workspace

    workspace = Workspace.open(config.parent)
    _say_all(check_workspace(load_config(config, set_ or [], preset), workspace, edit))


@app.command()
@handle_errors
def plan(
    config: ConfigOption,
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda|cuda:N", help="without a GPU, with any, or with this one"),
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option(metavar="GB", min=1, help="a GPU that is sold with so much, not this one"),
    ] = None,
    edit: EditOption = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="for programs: the text, and the steps with their seconds"),
    ] = False,
    preset: PresetOption = None,
    set_: SetOption = None,
) -> None:
    """Tell what training and inference will take of VRAM, RAM, disk and time; loads no model."""
    from maskora.app.plan import describe_plan, plan_times

    workspace = Workspace.open(config.parent)
    settings = load_config(config, set_ or [], preset)
    lines = describe_plan(settings, workspace, device, vram, edit)
    if not as_json:
        return _say_all(lines)
    times = [vars(part) for part in plan_times(settings, workspace, edit, device)]
    _say(json.dumps({"text": "\n".join(lines), "times": times}))


@app.command()
@handle_errors
def train(
    config: ConfigOption,
    stage: Annotated[
        Literal["motion", "appearance", "all"], typer.Option(help="what to train")
    ] = "all",
    edit: EditOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue an interrupted run where it can be")
    ] = False,
    device: DeviceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    local_rank: LocalRankOption = None,
) -> None:
    """Train the LoRA: motion from the source, then the look of edited keyframes."""
    workspace = Workspace.open(config.parent)
    # A mistake is answered before torch is imported.
    settings = load_config(config, set_ or [], preset)
    together.begin(workspace, settings, device, trains=True)
    from maskora.app.train import train_stages

    train_stages(settings, workspace, stage, edit, resume)
    ranks.leave()


@app.command()
@handle_errors
def infer(
    config: ConfigOption,
    edit: EditOption = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N[,N…]", help="instead of inference.seed")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="also put edited.mp4 here")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|none", help="another LoRA, or the bare base; may be repeated"),
    ] = None,
    from_: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="N", min=1, help="generate anew from the N-th segment of a long clip"
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep the result that is there: output/001, and so on")
    ] = False,
    device: DeviceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    local_rank: LocalRankOption = None,
) -> None:
    """Generate the edited clip, with everything outside the mask kept."""
    workspace = Workspace.open(config.parent)
    settings = load_config(config, set_ or [], preset)
    together.begin(workspace, settings, device, trains=False)
    from maskora.app.infer import infer_clip

    infer_clip(settings, workspace, edit, seed, output, lora or [], from_, keep)
    ranks.leave()


@app.command()
@handle_errors
def preview(
    config: ConfigOption,
    edit: EditOption = None,
    scale: Annotated[
        float, typer.Option(min=0.01, max=1, help="of the workspace's sides; never too small")
    ] = 0.5,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="of denoising; 12, or as configured if those are less"),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            metavar="newest|none|FILE", help="a LoRA; if not said, the newest where there is one"
        ),
    ] = None,
    device: DeviceOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="a method, over the settings (configs/presets); without a LoRA: instant",
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Show how an edit will move: small, in few steps, with what is trained so far or nothing."""
    workspace = Workspace.open(config.parent)
    load_config(config, set_ or [], preset)  # a mistake is answered before torch is imported
    devices.choose(device)
    from maskora.app.preview import preview_clip, preview_config

    settings = preview_config(config, set_ or [], preset, lora)
    file = None if lora in (None, "newest", "none") else Path(lora)
    preview_clip(settings, workspace, edit, scale, steps, file)


@app.command()
@handle_errors
def rerun(
    record: Annotated[Path, typer.Argument(metavar="RUN.JSON", help="of a result")],
    output: Annotated[Path | None, typer.Option(help="also put edited.mp4 here")] = None,
    device: DeviceOption = None,
) -> None:
    """Make a result once more, or say what differs from the run that made it."""
    devices.choose(device)
    from maskora.app.rerun import rerun as rerun_record

    _say_all(rerun_record(record, output))


@app.command()
@handle_errors
def export(
    source: Annotated[
        Path, typer.Argument(metavar="WORKSPACE|LORA", help="a workspace, or any LoRA file")
    ],
    output: Annotated[
        Path, typer.Argument(help="the file to write, NAME.safetensors; with --merge a folder")
    ],
    layout: Annotated[
        Literal["diffusers", "comfyui", "musubi"] | None,
        typer.Option(help="of the program that reads it; diffusers, if not said"),
    ] = None,
    edit: EditOption = None,
    set_: SetOption = None,
    preset: PresetOption = None,
    family: Annotated[
        Family | None, typer.Option(help="the kind of base, for files that do not say it")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a file that is there")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="write the whole base, with the LoRA in it, to a folder")
    ] = False,
) -> None:
    """Write a LoRA as a file for other programs: diffusers, ComfyUI, musubi-tuner."""
    if merge and (layout or family or overwrite):
        raise UserError(
            "--merge makes a new folder: --layout, --family and --overwrite have no use"
        )
    from maskora.app.export import Trained, export_lora, merge_lora

    which = Trained(edit, tuple(set_ or ()), preset)
    if merge:
        _say_all(merge_lora(source, output, which))
    else:
        _say_all(export_lora(source, output, layout or "diffusers", which, family, overwrite))


@app.command()
@handle_errors
def tiny_model(
    folder: Annotated[Path, typer.Argument(help="the folder to create")],
    seed: Annotated[int, typer.Option(help="of the random weights")] = 0,
    family: Annotated[TinyFamily, typer.Option(help="which kind of Wan base")] = "wan2.1-i2v",
) -> None:
    """Write a complete Wan folder of a few megabytes with random weights, for trying."""
    from maskora.models.tiny import write_tiny_model

    write_tiny_model(folder, seed, family=family)
    print(f"{folder}: a tiny {family} model with random weights; use it as model.path")


@app.command()
@handle_errors
def demo(
    folder: Annotated[Path, typer.Argument(help="where to put it")] = Path("maskora-demo"),
) -> None:
    """One edit from start to end on a small generated clip; needs no GPU and no download."""
    from maskora.app.demo import run_demo

    run_demo(folder, _say)


@app.command()
@handle_errors
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="as JSON, for a bug report; no names and no paths")
    ] = False,
) -> None:
    """Examine this machine: what it has, whether it computes rightly, and what it can do."""
    from functools import partial

    from maskora.app.doctor import examine

    examine(as_json, partial(print, end="", flush=True))


def main() -> None:
    """The `maskora` command."""
    app(prog_name="maskora")


def train_entry() -> None:
    """train.py"""
    app(["train", *sys.argv[1:]], prog_name="train.py")


def infer_entry() -> None:
    """infer.py"""
    app(["infer", *sys.argv[1:]], prog_name="infer.py")
