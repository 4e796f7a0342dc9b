"""The paper's claims put to the test on the miniature, which ships with maskora.

    python -m research.fidelity --choose     # learning rates and steps, on scenes of their own
    python -m research.fidelity              # the run; what is done already is not run again
    python -m research.fidelity --report     # docs/evidence.md

research/README.md says what is compared, research/claims/claims.py by which rule.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

import maskora.miniature
from maskora.errors import Fault, UserError
from research.claims import runs
from research.claims.claims import CLAIMS, keys
from research.claims.report import write_evidence
from research.claims.trials import base_name, open_base

HERE = Path(__file__).parent
WEIGHTS = Path(maskora.miniature.__file__).parent / "weights"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    choosing: Annotated[
        bool, typer.Option("--choose", help="choose learning rates and steps, and write --settings")
    ] = False,
    reporting: Annotated[
        bool, typer.Option("--report", help="write --page from what was measured")
    ] = False,
    claim: Annotated[
        list[int] | None, typer.Option("--claim", help="only this one; repeat it for several")
    ] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=2, help="per comparison")] = 16,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="per scene")] = 3,
    model: Annotated[Path, typer.Option("--model", help="a miniature's folder")] = WEIGHTS,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="processes, of one thread each")
    ] = os.cpu_count() or 1,
    settings: Annotated[Path, typer.Option("--settings", help="what was chosen, a .json")] = HERE
    / "claims/chosen.json",
    output: Annotated[Path, typer.Option("--output", help="the results, a .json")] = HERE
    / "results/fidelity.json",
    page: Annotated[Path, typer.Option("--page", help="the report, a .md")] = HERE.parent
    / "docs/evidence.md",
) -> None:
    """Put the claims to the test, and report the outcome."""
    try:
        check_options(choosing, reporting, claim or [])
        if choosing:
            with runs.pool(workers) as executor:
                runs.write_settings(settings, runs.choose(model, executor))
        elif reporting:
            _report(model, settings, output, page, scenes)
        else:
            wanted = keys([c for c in CLAIMS if claim is None or c.number in claim], scenes, seeds)
            runs.measure(wanted, model, _chosen(settings, model), output, workers)
    except (UserError, Fault) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2 if isinstance(error, UserError) else 1) from None


def check_options(choosing: bool, reporting: bool, claims: list[int]) -> None:
    """Options that go together. Raises UserError."""
    known = [claim.number for claim in CLAIMS]
    if unknown := sorted(set(claims) - set(known)):
        raise UserError(f"--claim {unknown[0]}: choose of {known[0]} to {known[-1]}")
    if choosing and reporting:
        raise UserError("--choose and --report are two runs: name one")
    if claims and (choosing or reporting):
        raise UserError("--claim is for the run alone; --choose and --report take no part of it")


def _chosen(path: Path, model: Path) -> runs.Settings:
    return runs.read_settings(path, base_name(open_base(model)))


def _report(model: Path, settings: Path, output: Path, page: Path, scenes: int) -> None:
    chosen = _chosen(settings, model)
    write_evidence(page, runs.results_of(output, chosen), chosen, runs.pictures_of(output), scenes)
    print(page)


if __name__ == "__main__":
    app()
