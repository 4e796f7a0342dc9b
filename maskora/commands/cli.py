"""The command line. Nothing heavy is imported before a command runs."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from maskora import __version__
from maskora.commands.failures import told_plainly
from maskora.config import load_config
from maskora.workspace import Workspace

app = typer.Typer(
    name="maskora",
    help="Carry an edit of a video's first frame through the whole clip.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", help="WORKSPACE/edit.toml")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="change a setting for this run"),
]
EditOption = Annotated[
    str | None, typer.Option("--edit", metavar="NAME", help="a further edit: edits/NAME/")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"maskora {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
@told_plainly
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
    base: Annotated[
        Path | None, typer.Option(help="start from this configuration (configs/NAME.toml)")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="how many frames: 4k+1; default 49")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="or auto (the default)")] = None,
    start: Annotated[int | None, typer.Option(help="first frame, from 0")] = None,
    every: Annotated[int | None, typer.Option(help="take every K-th frame")] = None,
    caption: Annotated[str | None, typer.Option(help="what the video shows")] = None,
    edited_caption: Annotated[str | None, typer.Option(help="what the edited one shows")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="prepare an existing workspace anew (keeps edits/)")
    ] = False,
    set_: SetOption = None,
) -> None:
    """Cut a video into a workspace: frames, masks, and a commented edit.toml."""
    from maskora.commands.prepare import prepare_workspace

    given = {
        "video.frames": frames,
        "video.size": size,
        "video.start": start,
        "video.every": every,
        "prompt.caption": caption,
        "prompt.edited_caption": edited_caption,
    }
    told = prepare_workspace(
        video=video,
        root=workspace,
        mask=mask,
        box=box,
        base=base,
        given={key: value for key, value in given.items() if value is not None},
        overrides=set_ or [],
        overwrite=overwrite,
    )
    print("\n".join(told))


@app.command()
@told_plainly
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
    tracker: Annotated[
        str | None, typer.Option(metavar="simple|sam2", help="who follows; see [tracker]")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="of sam2: a hub id, a folder, or an original .pt file")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace masks that were painted by hand")
    ] = False,
    set_: SetOption = None,
) -> None:
    """Follow clicked objects through the clip, and make masks of them."""
    from maskora.commands.track import track_workspace

    given = {"type": tracker, "checkpoint": _from_here(checkpoint)}
    lists = {"clicks": click, "boxes": box} if click or box else {}
    overrides = [f"tracker.{key}={json.dumps(value)}" for key, value in given.items() if value]
    overrides += [f"tracker.{key}={json.dumps(value or [])}" for key, value in lists.items()]
    place = Workspace(workspace)
    place.read_source()
    config = load_config(place.config, [*(set_ or []), *overrides])
    track_workspace(config, place, overwrite)


def _from_here(path: str | None) -> str | None:
    """A path typed at the prompt counts from here, not from the workspace."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


@app.command()
@told_plainly
def check(config: ConfigOption, edit: EditOption = None, set_: SetOption = None) -> None:
    """Check the configuration, the workspace and the edited frames; loads no model."""
    from maskora.commands.check import check_workspace

    check_workspace(load_config(config, set_ or []), Workspace(config.parent), edit)


@app.command()
@told_plainly
def plan(
    config: ConfigOption,
    device: Annotated[
        str | None, typer.Option(metavar="cuda|cpu", help="with a card or without, if not as here")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Tell what training and inference will take of VRAM, RAM, disk and time; loads no model."""
    from maskora.commands.plan import show_plan

    show_plan(load_config(config, set_ or []), Workspace(config.parent), device)


@app.command()
@told_plainly
def train(
    config: ConfigOption,
    stage: Annotated[str, typer.Option(help="motion, appearance or all")] = "all",
    edit: EditOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue an interrupted run where it can be")
    ] = False,
    set_: SetOption = None,
) -> None:
    """Train the LoRA: motion from the source, then the look of edited keyframes."""
    settings = load_config(config, set_ or [])  # a mistake is answered before torch is imported
    from maskora.commands.train import train_stages

    train_stages(settings, Workspace(config.parent), stage, edit, resume)


@app.command()
@told_plainly
def infer(
    config: ConfigOption,
    edit: EditOption = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N[,N…]", help="instead of inference.seed")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="also put edited.mp4 here")] = None,
    lora: Annotated[
        str | None, typer.Option(metavar="FILE|none", help="another LoRA, or the bare base")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Generate the edited clip, with everything outside the mask kept."""
    settings = load_config(config, set_ or [])
    from maskora.commands.infer import infer_clip

    infer_clip(settings, Workspace(config.parent), edit, seed, output, lora)


@app.command()
@told_plainly
def tiny_model(
    folder: Annotated[Path, typer.Argument(help="the folder to create")],
    seed: Annotated[int, typer.Option(help="of the random weights")] = 0,
) -> None:
    """Write a complete Wan2.1-I2V folder of a few megabytes with random weights, for trying."""
    from maskora.models.tiny import write_tiny_model

    write_tiny_model(folder, seed)
    print(f"{folder}: a tiny Wan2.1-I2V model with random weights; use it as model.path")


@app.command()
@told_plainly
def demo(
    folder: Annotated[Path, typer.Argument(help="where to put it")] = Path("maskora-demo"),
) -> None:
    """One edit from start to end on a small generated clip; needs no card and no download."""
    from maskora.commands.demo import run_demo

    run_demo(folder)


def main() -> None:
    """The `maskora` command."""
    app(prog_name="maskora")


def train_entry() -> None:
    """train.py"""
    app(["train", *sys.argv[1:]], prog_name="train.py")


def infer_entry() -> None:
    """infer.py"""
    app(["infer", *sys.argv[1:]], prog_name="infer.py")
