"""Checks before a model is loaded, and settings that have no effect."""

from collections.abc import Callable
from pathlib import Path

from tests.app.conftest import Answer

Run = Callable[..., Answer]


def test_settings_without_effect_are_said(copied: Path, run: Run) -> None:
    answer = run(
        "train", "--config", copied / "edit.toml", "--stage", "motion",
        "--set", "motion.window=full", "--set", "motion.stride=2",
    )  # fmt: skip
    assert "motion.stride has no effect here" in answer.err
    answer = run(
        "infer", "--config", copied / "edit.toml",
        "--set", "inference.guidance=1", "--set", "prompt.negative=ugly",
    )  # fmt: skip
    assert "prompt.negative has no effect here" in answer.err


def test_check_says_what_is_there(done: Path, run: Run) -> None:
    answer = run("check", "--config", done / "edit.toml")
    assert answer.status == 0
    assert "motion, then appearance (keyframes: 8)" in answer.out
