"""The command line. Nothing heavy is imported before a command runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskora import __version__, devices
from maskora.commands.cli_clip import SetOption, gui, prepare, track
from maskora.commands.cli_jobs import BatchCommand, EditCommand, batch, edit
from maskora.commands.cli_result import evaluate
from maskora.commands.failures import told_plainly
from maskora.config import load_config
from maskora.errors import UserError
from maskora.workspace import Workspace

app = typer.Typer(
    name="maskora",
    help="Carry an edit of a video's first frame through the whole clip.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", help="WORKSPACE/edit.toml")]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="cpu|cuda|cuda:N", help="where to compute; if not said, on a GPU"),
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


for command in (prepare, track, gui, evaluate):
    app.command()(told_plainly(command))
app.command(cls=EditCommand)(told_plainly(edit))
app.command(cls=BatchCommand)(told_plainly(batch))


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
        str | None,
        typer.Option(metavar="cpu|cuda|cuda:N", help="without a GPU, with any, or with this one"),
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option(metavar="GB", min=1, help="a GPU that is sold with so much, not this one"),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Tell what training and inference will take of VRAM, RAM, disk and time; loads no model."""
    from maskora.commands.plan import show_plan

    show_plan(load_config(config, set_ or []), Workspace(config.parent), device, vram)


@app.command()
@told_plainly
def train(
    config: ConfigOption,
    stage: Annotated[str, typer.Option(help="motion, appearance or all")] = "all",
    edit: EditOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue an interrupted run where it can be")
    ] = False,
    device: DeviceOption = None,
    set_: SetOption = None,
) -> None:
    """Train the LoRA: motion from the source, then the look of edited keyframes."""
    settings = load_config(config, set_ or [])  # a mistake is answered before torch is imported
    devices.choose(device)
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
        list[str] | None,
        typer.Option(metavar="FILE|none", help="another LoRA, or the bare base; may be repeated"),
    ] = None,
    device: DeviceOption = None,
    set_: SetOption = None,
) -> None:
    """Generate the edited clip, with everything outside the mask kept."""
    settings = load_config(config, set_ or [])
    devices.choose(device)
    from maskora.commands.infer import infer_clip

    infer_clip(settings, Workspace(config.parent), edit, seed, output, lora or [])


@app.command()
@told_plainly
def export(
    source: Annotated[
        Path, typer.Argument(metavar="WORKSPACE|LORA", help="a workspace, or any LoRA file")
    ],
    output: Annotated[
        Path, typer.Argument(help="the file to write, NAME.safetensors; with --merge a folder")
    ],
    layout: Annotated[
        str | None,
        typer.Option(metavar="diffusers|comfyui|musubi", help="of the program that reads it"),
    ] = None,
    edit: EditOption = None,
    family: Annotated[
        str | None, typer.Option(help="the kind of base, for files that do not say it")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a file that is there")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="write the whole base, with the LoRA in it, to a folder")
    ] = False,
) -> None:
    """Write a LoRA as a file for other programs: diffusers, ComfyUI, musubi-tuner."""
    if not merge:
        from maskora.commands.export import export_lora

        export_lora(source, output, layout or "diffusers", edit, family, overwrite)
        return
    if layout or family or overwrite:
        raise UserError(
            "--merge makes a new folder: --layout, --family and --overwrite have no use"
        )
    from maskora.commands.merge import merge_lora

    merge_lora(source, output, edit)


@app.command()
@told_plainly
def tiny_model(
    folder: Annotated[Path, typer.Argument(help="the folder to create")],
    seed: Annotated[int, typer.Option(help="of the random weights")] = 0,
    family: Annotated[str, typer.Option(help="which kind of Wan base")] = "wan2.1-i2v",
) -> None:
    """Write a complete Wan folder of a few megabytes with random weights, for trying."""
    from maskora.models.tiny import write_tiny_model

    write_tiny_model(folder, seed, family=family)
    print(f"{folder}: a tiny {family} model with random weights; use it as model.path")


@app.command()
@told_plainly
def pretrain_miniature(
    output: Annotated[Path, typer.Argument(help="the folder to create")],
    minutes: Annotated[float, typer.Option(help="of training; more are better")] = 60.0,
    seed: Annotated[int, typer.Option(help="of the weights and the batches")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with what the folder holds")
    ] = False,
) -> None:
    """Train the miniature, the small base that ships with maskora, from nothing, and judge it."""
    from maskora.commands import pretrain

    pretrain.pretrain_miniature(output, minutes, seed, resume)


@app.command()
@told_plainly
def demo(
    folder: Annotated[Path, typer.Argument(help="where to put it")] = Path("maskora-demo"),
) -> None:
    """One edit from start to end on a small generated clip; needs no card and no download."""
    from maskora.commands.demo import run_demo

    run_demo(folder)


@app.command()
@told_plainly
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="as JSON, for a bug report; no names and no paths")
    ] = False,
) -> None:
    """Examine this machine: what it has, whether it computes rightly, and what it can do."""
    from maskora.commands.doctor import examine

    examine(as_json)


def main() -> None:
    """The `maskora` command."""
    app(prog_name="maskora")


def train_entry() -> None:
    """train.py"""
    app(["train", *sys.argv[1:]], prog_name="train.py")


def infer_entry() -> None:
    """infer.py"""
    app(["infer", *sys.argv[1:]], prog_name="infer.py")
