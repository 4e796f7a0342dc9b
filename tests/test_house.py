"""The house itself: what is shipped beside the package holds together."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maskora import __version__
from maskora.config import load_config

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci" / "run"])
CONFIGS = sorted(ROOT.glob("configs/*.toml"))


def tool(name: str) -> str:
    """The path of a command that lies beside the interpreter running the tests."""
    return str(Path(sys.executable).with_name(name))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        Requirement(r) for r in project["dependencies"] + project["optional-dependencies"]["dev"]
    ]


def pins() -> dict[str, str]:
    """The versions of constraints.txt by canonical package name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in pairs}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_shell_scripts_pass_shellcheck() -> None:
    result = run(tool("shellcheck"), *SCRIPTS)
    assert result.returncode == 0, result.stdout


def test_shell_scripts_are_executable() -> None:
    assert len(SCRIPTS) >= 3
    assert [script.name for script in SCRIPTS if not os.access(script, os.X_OK)] == []


def test_imports_point_downward() -> None:
    result = run(tool("lint-imports"), "--no-logo")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_package_and_project_have_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]


def test_readme_tells_only_make_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    told = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert {"demo", "test"} <= told
    assert told <= make_targets()


def test_configs_are_shipped() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_config_loads(path: Path) -> None:
    load_config(path)


def test_setup_without_python_says_what_it_needs(tmp_path: Path) -> None:
    result = run("make", "setup", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert not (tmp_path / "venv").exists()
