"""Run presets over a folder of cases.

    python -m research.benchmark CASES OUTPUT --presets paper,instant -- --base configs/NAME.toml

research/README.md says what a case is, and what comes out.
"""

from pathlib import Path
from typing import Annotated

import typer

from maskora.cli import handle_errors
from research.benchmark.runs import Benchmark, run_all

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@handle_errors
def main(
    cases: Annotated[Path, typer.Argument(help="a folder of cases, which are jobs of batch")],
    output: Annotated[Path, typer.Argument(help="the folder of results; run again to continue")],
    presets: Annotated[
        str, typer.Option(metavar="A,B,…", help="names of configs/presets, or .toml files")
    ],
    clip: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB_ID", help="as of maskora evaluate")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB_ID", help="as of maskora evaluate")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="of maskora edit, for every case"),
    ] = None,
) -> None:
    """Carry the edit of every case through its clip by every preset, and compare the results."""
    benchmark = Benchmark.of(cases, output, presets.split(","), clip, quality, options or [])
    raise typer.Exit(run_all(benchmark))


if __name__ == "__main__":
    app()
