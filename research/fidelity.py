"""The claims put to the test on the miniature, which ships with maskora.

    python -m research.fidelity --choose     # learning rates and steps, on scenes of their own
    python -m research.fidelity              # the run; what is done already is not run again
    python -m research.fidelity --cost       # seconds, evaluations and memory of every preset
    python -m research.fidelity --report     # docs/evidence.md

Each but the last also with --base first-frame: on the base that has never seen a box.
research/README.md says what is compared, research/claims/claims.py by which rule.
"""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

import maskora.miniature
from maskora.errors import Fault, UserError
from maskora.files import remove
from research.claims import runs
from research.claims.claims import CLAIMS, LONGER, MAIN, PRESETS, Subject, at_length, keys
from research.claims.costs import cost_of, read_costs, write_costs
from research.claims.report import Evidence, write_evidence
from research.claims.trials import base_name, open_base

HERE = Path(__file__).parent
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Base:
    """A base, and where what is found on it lies.

    Attributes:
        model: its folder.
        settings: what was chosen on it, a .json.
        output: the results, a .json; costs and pictures lie beside it.
        claims: numbers of those that are asked of it.
    """

    model: Path
    settings: Path
    output: Path
    claims: tuple[int, ...]

    @property
    def costs(self) -> Path:
        """The file of its costs."""
        return self.output.with_name(f"{self.output.stem}-costs.json")

    def evidence(self) -> Evidence:
        """What was measured on it. Raises UserError where nothing was."""
        chosen = runs.read_settings(self.settings, base_name(open_base(self.model)))
        results = runs.results_of(self.output, chosen)
        return Evidence(results, chosen, read_costs(self.costs, chosen.base))


BASES = {
    "boxes": Base(
        Path(maskora.miniature.__file__).parent / "weights", HERE / "claims/chosen.json",
        HERE / "results/fidelity.json", tuple(claim.number for claim in CLAIMS),
    ),
    "first-frame": Base(
        HERE / "miniature/first-frame", HERE / "claims/chosen-first-frame.json",
        HERE / "results/first-frame.json", MAIN,
    ),
}  # fmt: skip


@app.command()
def main(
    choosing: Annotated[
        bool, typer.Option("--choose", help="choose learning rates and steps, and write --settings")
    ] = False,
    costing: Annotated[
        bool, typer.Option("--cost", help="measure what every preset costs, one after another")
    ] = False,
    reporting: Annotated[
        bool, typer.Option("--report", help="write --page from what was measured")
    ] = False,
    base: Annotated[
        Literal["boxes", "first-frame"], typer.Option(help="what the base was taught to go by")
    ] = "boxes",
    claim: Annotated[
        list[int] | None, typer.Option("--claim", help="only this one; repeat it for several")
    ] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=2, help="per comparison")] = 16,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="per scene")] = 3,
    model: Annotated[Path | None, typer.Option("--model", help="a miniature's folder")] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="processes, of one thread each")
    ] = os.cpu_count() or 1,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="what was chosen, a .json")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="the results, a .json")] = None,
    page: Annotated[Path, typer.Option("--page", help="the report, a .md")] = HERE.parent
    / "docs/evidence.md",
) -> None:
    """Put the claims to the test, and report the outcome."""
    own = BASES[base]
    own = replace(
        own, model=model or own.model, settings=settings or own.settings,
        output=output or own.output,
    )  # fmt: skip
    try:
        check_options([choosing, costing, reporting], claim or [])
        if choosing:
            _choose(own, workers)
        elif costing:
            measure_costs(own)
        elif reporting:
            _report(own, page, scenes)
        else:
            asked = [c for c in CLAIMS if c.number in (claim or own.claims)]
            wanted = keys(asked, scenes, seeds, tables=not claim)
            chosen = runs.read_settings(own.settings, base_name(open_base(own.model)))
            runs.measure(wanted, own.model, chosen, own.output, workers)
    except (UserError, Fault) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2 if isinstance(error, UserError) else 1) from None


def check_options(modes: list[bool], claims: list[int]) -> None:
    """Options that go together. Raises UserError."""
    known = [claim.number for claim in CLAIMS]
    if unknown := sorted(set(claims) - set(known)):
        raise UserError(f"--claim {unknown[0]}: choose of {known[0]} to {known[-1]}")
    if sum(modes) > 1:
        raise UserError("--choose, --cost and --report are runs of their own: name one")
    if claims and any(modes):
        raise UserError("--claim is for the run alone; --choose, --cost and --report take no part")


def _choose(base: Base, workers: int) -> None:
    """Choose the recipes; what was tried is kept beside the results until they stand."""
    kept = base.output.with_name(f"{base.output.stem}-tried.json")
    with runs.pool(workers) as executor:
        runs.write_settings(base.settings, runs.choose(base.model, executor, kept=kept))
    remove(kept)


def measure_costs(base: Base) -> None:
    """Measure every preset on every length, and write the costs as they come."""
    chosen = runs.read_settings(base.settings, base_name(open_base(base.model)))
    costs = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in (at_length(n, f) for f in (Subject().frames, *LONGER) for n in PRESETS):
            with runs.pool(1) as executor:  # anew for each: what one has taken the next would have
                job = executor.submit(cost_of, base.model, Path(cache), name, chosen.recipes)
                costs[name] = job.result()
            write_costs(base.costs, chosen.base, costs)
            print(name, *costs[name].cells())


def _report(base: Base, page: Path, scenes: int) -> None:
    other = BASES["first-frame"]
    plain = other.evidence() if other.output.exists() else None
    pictures = runs.pictures_of(base.output)
    write_evidence(page, base.evidence(), pictures, scenes, plain)
    print(page)


if __name__ == "__main__":
    app()
