"""Peak memory, seconds and moved bytes of training and generating, each case in its own process.

    python benchmarks/random_model.py --output model-tiny --size tiny --layers 4
    python benchmarks/memory.py --model model-tiny --case train-9 --case infer-49 \\
        --swap 4 --frames 5 --size 64x48

    python benchmarks/memory.py --model model-14b --case train-9 --case train-49 --case infer-49 \\
        --cap-gb 8 --storage same,float8 --output benchmarks/results/NAME.json

It runs on a GPU and without one. benchmarks/README.md says what each column means.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

if not __package__:  # started as a file: the repository's root is where imports count from
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.jobs import Job, Precision
from benchmarks.placing import (
    Request,
    configure,
    parse_changes,
    parse_storages,
    parse_swap,
)
from benchmarks.report import markdown
from benchmarks.runner import Base, Resident, measure_all
from maskora.errors import Fault, UserError

LOADED_FRAMES = 9  # the plan of a case that only loads is that of training on so many
Weights = Literal["pinned", "pageable", "mapped"]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Case(StrEnum):  # a list of Literals is none of typer's
    """What is run."""

    LOAD = "load"
    TRAIN_9 = "train-9"
    TRAIN_49 = "train-49"
    INFER_49 = "infer-49"


Model = Annotated[Path, typer.Option(help="a folder in diffusers' layout")]
Cases = Annotated[list[Case], typer.Option("--case", help="repeat it for several")]
Swap = Annotated[str, typer.Option(help="how many blocks are streamed; auto: as the plan says")]
Cap = Annotated[
    float | None, typer.Option(min=0.1, help="use no more than a GPU of so many GiB has")
]
WeightsOption = Annotated[Weights, typer.Option(help="where streamed blocks wait")]
Storages = Annotated[str, typer.Option(help="same, float8, int8, nf4: each is a row per case")]
Place = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="activation_offload, ring, recompute, …"),
]
Dtype = Annotated[Precision, typer.Option(help="that the base computes in")]
Steps = Annotated[int, typer.Option(min=1, help="measured, after a warm-up")]
Rank = Annotated[int, typer.Option(min=1, help="of the LoRA")]
Frames = Annotated[int | None, typer.Option(min=1, help="4k+1, instead of the case's own")]
Size = Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels")]
Compared = Annotated[Resident, typer.Option(help="what a streamed step is compared with")]
Output = Annotated[Path | None, typer.Option(help="a .json; a .md is written beside it")]


@app.command()
def main(
    model: Model,
    case: Cases,
    swap: Swap = "auto",
    cap_gb: Cap = None,
    weights: WeightsOption = "pinned",
    storage: Storages = "same",
    place: Place = None,
    dtype: Dtype = "bfloat16",
    steps: Steps = 3,
    rank: Rank = 16,
    frames: Frames = None,
    size: Size = "832x480",
    resident: Compared = "auto",
    output: Output = None,
) -> None:
    """Measure cases and print a table."""
    try:
        base = Base.read(model)
        width, height = _parse_size(size)
        storages, changes = parse_storages(storage), parse_changes(place or [])
        swapped, requests = parse_swap(swap, base.layers), []
        for name in case:
            kind, _, length = name.partition("-")
            job = Job(
                kind, model=str(base.folder), frames=frames or int(length or LOADED_FRAMES),
                width=width, height=height, dtype=dtype, cap_gb=cap_gb, steps=steps,
                rank=rank, layers=base.layers,
            )  # fmt: skip
            configs = [configure(job, swapped, weights, stored) for stored in storages]
            requests += [Request(name, job, config, changes) for config in configs]
        results = measure_all(requests, base, resident, output)
    except (UserError, Fault) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2 if isinstance(error, UserError) else 1) from None
    print(markdown(results))


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UserError(f"--size {text}: write width and height in pixels, as in 832x480")
    return int(width), int(height)


if __name__ == "__main__":
    app()
