"""The list of packages: complete, licensed, pinned."""

import json
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def packages(*arguments: str) -> str:
    command = [sys.executable, ROOT / "scripts" / "packages.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """Of everything that is installed for maskora."""
    content: dict[str, Any] = json.loads(packages("--sbom"))
    return content


def test_every_package_has_a_licence(bill: dict[str, Any]) -> None:
    lines = packages().splitlines()
    assert len(lines) == len(bill["components"]) + 1
    assert any(re.match(r"numpy +\d\S+ +BSD-3-Clause", line) for line in lines)
    assert [line for line in lines if line.endswith("not said")] == []


def test_the_bill_names_each_package_once_and_what_it_needs(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(references) == len(set(references)) > 30
    own = bill["metadata"]["component"]
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert needs.keys() == {*references, own["bom-ref"]}
    assert {one for some in needs.values() for one in some} <= set(references)
    names = {reference.split("/")[1].split("@")[0] for reference in needs[own["bom-ref"]]}
    assert {"torch", "diffusers", "gradio", "pytest"} <= names
    runtime = json.loads(packages("--sbom", "--extra", "quant"))
    assert "gradio" not in {one["name"] for one in runtime["components"]}


def test_constraints_pin_every_package(bill: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    companions = {  # which torch pins itself
        canonicalize_name(one.metadata["Name"])
        for one in distributions()
        if re.match(r"nvidia-|cuda-|triton", one.metadata["Name"])
    }
    found = {canonicalize_name(one["name"]) for one in bill["components"]} - companions
    assert found - pinned.keys() == set()
    for name in found:
        assert re.fullmatch(r"\d[\w.]*", pinned[name]), name
