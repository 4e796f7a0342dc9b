"""The workflow file for public CI: what it says fits what the project says of itself."""

import re
import tomllib

import yaml

from tests.conftest import REPOSITORY

WORKFLOW = yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SYSTEMS = {"ubuntu": "POSIX :: Linux", "windows": "Microsoft :: Windows", "macos": "MacOS"}


def test_it_runs_on_every_system_and_python_that_is_named() -> None:
    matrix = WORKFLOW["jobs"]["quick"]["strategy"]["matrix"]
    assert [name.removesuffix("-latest") for name in matrix["os"]] == list(SYSTEMS)
    named = [one.rpartition(" :: ")[2] for one in PROJECT["project"]["classifiers"] if " 3." in one]
    assert set(named) <= set(matrix["python"])
    assert all(isinstance(version, str) for version in matrix["python"])  # 3.10 would be 3.1
    assert f">={matrix['python'][0]}" == PROJECT["project"]["requires-python"]
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert f"{matrix['python'][0]} to {matrix['python'][-1]}" in text


def test_its_commands_mean_the_same_in_every_shell() -> None:
    commands = [step["run"] for step in WORKFLOW["jobs"]["quick"]["steps"] if "run" in step]
    assert len(commands) == 2
    for command in commands:
        assert re.fullmatch(r'python -m [\w ./:,"\[\]-]+', command)
    extra = re.search(r"\.\[(\w+)\]", commands[0])
    assert extra[1] in PROJECT["project"]["optional-dependencies"]
    installing = (REPOSITORY / "docs" / "installing.md").read_text(encoding="utf-8")
    assert commands[1].removeprefix("python ") in installing


def test_the_torch_that_is_typed_on_windows_is_the_one_the_tests_ran_with() -> None:
    installing = (REPOSITORY / "docs" / "installing.md").read_text(encoding="utf-8")
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert set(re.findall(r"torch==[\d.]+", installing)) == {
        p for p in pins if p.startswith("torch==")
    }
