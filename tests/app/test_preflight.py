"""Checks before a model is loaded, and settings that have no effect."""

from pathlib import Path

from tests.app.conftest import Run, at, ok


def test_settings_without_effect_are_said(copied: Path, run: Run) -> None:
    answer = run("train", *at(copied, "motion.window=full", "motion.stride=2"), "--stage", "motion")
    assert "motion.stride has no effect here" in answer.err
    answer = run("infer", *at(copied, "inference.guidance=1", "prompt.negative=ugly"))
    assert "prompt.negative has no effect here" in answer.err


def test_check_says_what_is_there(done: Path, run: Run) -> None:
    assert "motion, then appearance (keyframes: 8)" in ok(run("check", *at(done))).out
