"""The command about a result: evaluate."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    workspace: Annotated[Path, typer.Argument(help="a workspace that infer.py has run in")],
    edit: Annotated[
        str | None, typer.Option("--edit", metavar="NAME", help="a further edit: edits/NAME/")
    ] = None,
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
    quality: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="a CLIP: quality without a reference"),
    ] = None,
) -> None:
    """Judge a result: report.html and report.json beside it, with numbers, curves and pictures."""
    from maskora.commands.evaluate import evaluate_result

    evaluate_result(workspace, edit, seed, truth, clip, quality)
