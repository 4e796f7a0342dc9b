"""[acceleration] through `maskora infer`: it reaches the model, and what it does is told."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import Answer

Run = Callable[..., Answer]


def generated(run: Run, root: Path, *sets: str) -> tuple[np.ndarray, str]:
    """The bare base's frames after nine steps, (T, H, W, 3), and what the command has said."""
    options = [item for one in ["inference.steps=9", *sets] for item in ("--set", one)]
    answer = run("infer", "--config", root / "edit.toml", "--lora", "none", *options)
    assert answer.status == 0, answer.err
    video = probe(root / "output" / "edited.mkv")
    return np.stack(list(read_frames(video, 0, None))), answer.err


def test_a_cache_skips_blocks_says_so_and_changes_the_result(
    run: Run, prepared: Callable[..., Path]
) -> None:
    root = prepared()
    plain, told = generated(run, root)
    assert "acceleration.cache" not in told
    cached, told = generated(run, root, "acceleration.cache=taylor")
    share = re.search(r"(\d+) % of the blocks' computations were skipped", told)
    assert share is not None, told
    assert 20 <= int(share[1]) <= 60, "after the first three, two of three steps"
    assert not np.array_equal(cached, plain)
    assert np.array_equal(generated(run, root)[0], plain), "the cache alone has changed it"
