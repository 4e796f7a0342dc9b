"""The commands about the clip and its masks: prepare, track, gui."""

import json
from pathlib import Path
from typing import Annotated

import typer

from maskora.config import load_config
from maskora.workspace import Workspace

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="change a setting for this run"),
]


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
    from maskora.commands.gui import start_gui
    from maskora.video.limits import Limits

    limits = Limits.of(max_upload_mb, max_seconds, max_megapixels)
    start_gui(workspace, host, port, allow or [], limits, browser)
