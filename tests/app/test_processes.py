"""maskora as a process of its own: which copy of it is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskora.app import processes
from tests.conftest import REPOSITORY


def test_nothing_is_imported_from_the_folder_where_a_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maskora").mkdir()
    (tmp_path / "maskora" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    told = subprocess.run(
        [*processes.program(), "--version"], env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stdout.split()[:1]) == (0, ["maskora"]), told.stderr


@pytest.mark.parametrize("program", [["-m", "maskora"], ["train.py"], ["infer.py"]])
def test_a_module_in_a_strangers_folder_is_not_run(tmp_path: Path, program: list[str]) -> None:
    for name in ("typer", "torch", "numpy", "json", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    if program[0].endswith(".py"):
        program = [str(REPOSITORY / program[0])]
    told = subprocess.run(
        [sys.executable, *program, "--help"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "Usage" in told.stdout
