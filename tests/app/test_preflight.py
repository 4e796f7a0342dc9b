"""Checks before a model is loaded, and settings that have no effect."""

import json
from pathlib import Path

import pytest

from maskora.video import probe
from tests.app.conftest import Run, at, ok


def test_settings_without_effect_are_said(copied: Path, run: Run) -> None:
    answer = run("train", *at(copied, "motion.window=full", "motion.stride=2"), "--stage", "motion")
    assert "motion.stride has no effect here" in answer.err
    answer = run("infer", *at(copied, "inference.guidance=1", "prompt.negative=ugly"))
    assert "prompt.negative has no effect here" in answer.err


def test_check_says_what_is_there(done: Path, run: Run) -> None:
    assert "motion, then appearance (keyframes: 8)" in ok(run("check", *at(done))).out


def test_check_says_that_the_sound_cannot_be_taken_along(
    done: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "sound" not in ok(run("check", *at(done))).out
    monkeypatch.setattr(probe, "find_track", lambda *_: (None, "the sound cannot be read (why)"))
    lines = ok(run("check", *at(done))).out.splitlines()
    origin = json.loads((done / "source" / "source.json").read_text())["origin"]
    assert f"note: {origin}: the sound cannot be read (why)" in lines
