"""The benchmark of the batch runner: what it says is what it measured."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import batch
from maskora.errors import Fault


def test_ratios_are_medians_over_the_rounds() -> None:
    rounds = [
        {"lone": 10.0, "one": one, "two": one / 2, "again": 1.0} for one in (10.0, 12.0, 30.0)
    ]
    page = batch.markdown(
        {
            "machine": {"processor": "P", "ram_bytes": 2**34, "torch": "2"},
            "settings": {"jobs": 4, "steps": 5, "rounds": 3, "threads": 1},
            "rounds": rounds,
        }
    )
    assert "| batch, 1 worker | 12.0 | 1.20 of the lone runs |" in page
    assert "| batch, 2 workers | 6.0 | 0.50 of 1 worker |" in page
    assert "a batch takes +0.50 seconds a job" in page


def test_a_run_that_fails_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"maskora batch has failed: .*no such file"):
        batch.run(batch.batch_words(tmp_path / "none.toml", tmp_path, 1))


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as it was, at the end
    output = tmp_path / "batch.json"
    result = CliRunner().invoke(batch.app, ["--jobs", "1", "--steps", "1", "--output", str(output)])
    assert result.exit_code == 0, result.output
    (only,) = json.loads(output.read_text())["rounds"]
    assert only["again"] < only["one"]
    assert min(only.values()) > 0
    assert output.with_suffix(".md").read_text() in result.stdout
