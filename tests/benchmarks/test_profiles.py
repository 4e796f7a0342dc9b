"""The memory profiles: what was asked for wrongly rewrites none of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import profiles
from maskora.models.tiny import write_tiny_model


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["wan2.1-i2v-15b"]}, "no such profile: wan2.1-i2v-15b"),
        ({"family": "wan2.1-i2v", "base": Path("base")}, "needs one name"),
        ({"names": ["new"], "family": "wan2.1-i2v"}, "needs one name, --family and --base"),
        ({"names": ["new"], "configs": ["new"]}, "needs one name, --family and --base"),
    ],
)
def test_what_is_incomplete_or_unknown_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr(profiles, "write_profile", lambda name, *_: written.append(name))
    with pytest.raises(typer.BadParameter, match=message):
        profiles.main(**given)
    assert written == []


@pytest.mark.parametrize("config", ["wan2.1-i2v-480p", "configs/wan2.1-i2v-480p.toml"])
def test_a_new_base_is_written_with_its_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str
) -> None:
    """As the module's own line and CONTRIBUTING.md say it: by its name or its file."""
    write_tiny_model(tmp_path / "base", seed=0)
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    monkeypatch.setattr(profiles, "measured", lambda family, parts: {"fingerprint": family})
    profiles.main(["new"], "wan2.1-i2v", tmp_path / "base", [config])
    written = json.loads((tmp_path / "new.json").read_text())
    assert list(written["configurations"]) == ["wan2.1-i2v-480p"]
    assert "transformer" in written["parts"]
