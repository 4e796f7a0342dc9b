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
from typing import Annotated

import typer

if __package__ in (
    None,
    "",
):  # started as a file: the repository's root is where imports count from
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.jobs import Job
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
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Case(StrEnum):
    """What is run."""

    LOAD = "load"
    TRAIN_9 = "train-9"
    TRAIN_49 = "train-49"
    INFER_49 = "infer-49"


class Weights(StrEnum):
    """Where streamed blocks wait."""

    PINNED = "pinned"
    PAGEABLE = "pageable"
    MAPPED = "mapped"


class Precision(StrEnum):
    """What the base computes in."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@app.command()
def main(
    model: Annotated[Path, typer.Option("--model", help="a folder in diffusers' layout")],
    case: Annotated[list[Case], typer.Option("--case", help="repeat it for several")],
    swap: Annotated[
        str, typer.Option("--swap", help="how many blocks are streamed; auto: as the plan says")
    ] = "auto",
    cap_gb: Annotated[
        float | None,
        typer.Option("--cap-gb", min=0.1, help="use no more than a GPU of so many GiB has"),
    ] = None,
    weights: Annotated[
        Weights, typer.Option("--weights", help="where streamed blocks wait")
    ] = Weights.PINNED,
    storage: Annotated[
        str, typer.Option("--storage", help="same, float8, int8, nf4: each is a row per case")
    ] = "same",
    place_as: Annotated[
        list[str] | None,
        typer.Option("--place", metavar="KEY=VALUE", help="activation_offload, ring, recompute, …"),
    ] = None,
    dtype: Annotated[
        Precision, typer.Option("--dtype", help="that the base computes in")
    ] = Precision.BFLOAT16,
    steps: Annotated[int, typer.Option("--steps", min=1, help="measured, after a warm-up")] = 3,
    rank: Annotated[int, typer.Option("--rank", min=1, help="of the LoRA")] = 16,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="4k+1, instead of the case's own")
    ] = None,
    size: Annotated[str, typer.Option("--size", help="WIDTHxHEIGHT in pixels")] = "832x480",
    resident: Annotated[
        Resident, typer.Option("--resident", help="what a streamed step is compared with")
    ] = Resident.AUTO,
    output: Annotated[
        Path | None, typer.Option("--output", help="a .json; a .md is written beside it")
    ] = None,
) -> None:
    """Measure cases and print a table."""
    try:
        base = Base.read(model)
        width, height = _parse_size(size)
        storages, changes = parse_storages(storage), parse_changes(place_as or [])
        swapped = parse_swap(swap, base.layers)
        requests = []
        for one in case:
            kind, _, length = one.value.partition("-")
            job = Job(
                kind, model=str(base.folder), frames=frames or int(length or LOADED_FRAMES),
                width=width, height=height, dtype=dtype.value, cap_gb=cap_gb, steps=steps,
                rank=rank, layers=base.layers,
            )  # fmt: skip
            for stored in storages:
                config = configure(job, swapped, weights.value, stored)
                requests.append(Request(one.value, job, config, changes))
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
