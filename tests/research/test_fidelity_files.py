"""Files of settings and results, and options: what is written comes back, what is wrong is told."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskora.errors import UserError
from research.claims.runs import PROTOCOL, Record, Results, read_results
from research.claims.settings import Recipe, Settings, read_settings, write_settings
from research.fidelity import app
from tests.research.miniature.untrained import write

RECIPES = {"motion, masked": Recipe(1e-2, 2), "appearance, anchored": Recipe(1e-3, 3)}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    write(folder)
    return folder


def test_results_come_back_and_are_plain_json(tmp_path: Path) -> None:
    records = [
        Record("tight mask", 3000, 1, {"hit": 0.5, "grown": math.nan}),
        Record("source", 3001, 0, {"hit": 0.25, "grown": 1.0}),
    ]
    path = tmp_path / "results.json"
    Results("a base", RECIPES, records).write(path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, which JSON has not
    told = read_results(path)
    assert (told.base, told.recipes) == ("a base", RECIPES)
    assert told.records[1] == records[1]
    assert told.records[0].figures["hit"] == 0.5
    assert math.isnan(told.records[0].figures["grown"])


def test_results_of_other_trials_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results("a base", RECIPES, []).write(path)
    path.write_text(path.read_text().replace(f'"protocol": {PROTOCOL}', '"protocol": 1'))
    with pytest.raises(UserError, match="results of other trials: delete it"):
        read_results(path)


def test_settings_belong_to_a_base(tmp_path: Path) -> None:
    path = tmp_path / "chosen.json"
    with pytest.raises(UserError, match="--choose first"):
        read_settings(path, "one")
    write_settings(path, Settings("one", RECIPES, [1], []))
    assert read_settings(path, "one").recipes == RECIPES
    with pytest.raises(UserError, match="another base"):
        read_settings(path, "two")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"protocol": 2}', '{"protocol": 2, "base": "x", "recipes": 3}']
)
def test_damaged_files_are_told(miniature: Path, tmp_path: Path, content: str) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_text(content)
    answer = CliRunner().invoke(app, ["--model", str(miniature), "--settings", str(damaged)])
    assert answer.exit_code == 2
    assert f"{damaged} is damaged" in answer.output
    with pytest.raises(UserError, match="is damaged"):
        read_results(damaged)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--claim", "42"], "choose of 1 to 9"),
        (["--choose", "--report"], "name one"),
        (["--report", "--claim", "1"], "for the run alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], told: str) -> None:
    answer = CliRunner().invoke(app, options)
    assert answer.exit_code == 2
    assert told in answer.output
