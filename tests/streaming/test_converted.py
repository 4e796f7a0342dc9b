"""The converted copy of the weights: trusted only if it is whole, written again if it is not."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskora.errors import Fault
from maskora.streaming import sources as converted
from maskora.streaming.placement import Placement
from tests.streaming.driving import answer, opened

MAPPED = Placement(5, "mapped", "float8")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted weights go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path / "home-cache" / "maskora" / "weights"


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap_two_blocks(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b'"0":', b'"x":').replace(b'"1":', b'"0":').replace(b'"x":', b'"1":')
    )


@pytest.mark.parametrize("damage", [cut_off, empty, swap_two_blocks])
def test_a_damaged_copy_is_written_again(
    deep_model: Path, cache: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    model = opened(deep_model, MAPPED)
    expected = answer(model, model.load_transformer())
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damage(file)
    assert file.read_bytes() != whole
    assert torch.equal(answer(model, model.load_transformer()), expected)
    assert file.read_bytes() == whole
    assert "is damaged and is written again" in caplog.text


def test_what_a_killed_conversion_has_left_is_removed_but_not_a_running_ones(
    deep_model: Path, cache: Path
) -> None:
    cache.mkdir(parents=True)
    old, running = cache / ".part-old.safetensors", cache / ".part-new.safetensors"
    for part in (old, running):
        part.write_bytes(b"half")
    long_ago = time.time() - converted.ABANDONED_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    opened(deep_model, MAPPED).load_transformer()
    assert not old.exists()
    assert running.exists()


def test_a_place_that_cannot_be_written_to_names_the_way_out(
    deep_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(Fault, match=r"could not be written to .* XDG_CACHE_HOME"):
        opened(deep_model, MAPPED).load_transformer()


def test_an_interrupted_conversion_leaves_nothing(
    deep_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskora.streaming.sources import CheckpointBlocks

    fill = CheckpointBlocks.fill

    def interrupted(self: CheckpointBlocks, index: int, out: torch.Tensor) -> None:
        if index == 3:
            raise KeyboardInterrupt
        fill(self, index, out)

    monkeypatch.setattr(CheckpointBlocks, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(deep_model, MAPPED).load_transformer()
    assert not list(cache.iterdir())
