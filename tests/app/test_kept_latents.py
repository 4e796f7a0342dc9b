"""What was sampled is kept until its result stands, and used when the command is run again."""

import errno
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from maskora.app import passages
from maskora.errors import Fault
from maskora.latents import TensorCache
from maskora.sampling import Denoising
from tests.app.conftest import Run, at, frames_of, ok

BARE = ["--lora", "none"]
Sampled = list[list[int]]


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Sampled:
    """The seeds that each command has sampled."""
    asked, real = Sampled(), passages.generate

    def generate(config: object, model: object, encoded: dict[int, Any],
                 *rest: object) -> dict[int, Tensor]:  # fmt: skip
        asked.append(list(encoded))
        return real(config, model, encoded, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(passages, "generate", generate)
    return asked


def failing(number: int, error: BaseException, real: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but for one of its calls, which fails."""
    calls = itertools.count(1)

    def call(*arguments: object) -> object:
        if next(calls) == number:
            raise error
        return real(*arguments)

    return call


def kept(root: Path) -> list[Path]:
    return list((root / "cache").glob("sampled-*"))


@pytest.fixture
def expected(done: Path, run: Run, tmp_path: Path) -> np.ndarray:
    """The frames of seed 4 where nothing goes wrong."""
    root = Path(shutil.copytree(done, tmp_path / "expected"))
    ok(run("infer", *at(root), *BARE, "--seed", "4"))
    assert not kept(root)
    return frames_of(root)


def test_a_decode_that_fails_once_loses_no_seed(
    copied: Path, run: Run, expected: np.ndarray, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["infer", *at(copied), *BARE, "--seed", "4,5"]
    decode = failing(1, Fault("cuDNN has failed"), passages.decode_video)
    monkeypatch.setattr(passages, "decode_video", decode)
    answer = run(*command)
    assert answer.status == 1
    assert "cuDNN has failed" in answer.err
    assert (copied / "output" / "seed-5" / "run.json").is_file()
    assert len(kept(copied)) == 1
    answer = ok(run(*command))
    assert sampled == [[4, 5], [5]]
    assert "seed 4 was sampled before" in answer.err
    assert np.array_equal(frames_of(copied), expected)
    assert not kept(copied)


def test_ctrl_c_between_seeds_loses_none_of_them(
    copied: Path, run: Run, expected: np.ndarray, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = failing(2, KeyboardInterrupt(), passages.decode_video)
    monkeypatch.setattr(passages, "decode_video", decode)
    assert run("infer", *at(copied), *BARE, "--seed", "7,4").status == 130
    ok(run("infer", *at(copied), *BARE, "--seed", "4"))
    assert sampled == [[7, 4]]
    assert np.array_equal(frames_of(copied), expected)
    assert not kept(copied)


def test_ctrl_c_while_a_seed_is_sampled_loses_no_earlier_one(
    copied: Path, run: Run, expected: np.ndarray, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = failing(2, KeyboardInterrupt(), Denoising.advance)
    monkeypatch.setattr(Denoising, "advance", lambda *arguments: advance(*arguments))
    assert run("infer", *at(copied), *BARE, "--seed", "4,7").status == 130
    ok(run("infer", *at(copied), *BARE, "--seed", "4"))
    assert sampled == [[4, 7]]
    assert np.array_equal(frames_of(copied), expected)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    hurt = bytearray(path.read_bytes())
    hurt[-100] ^= 0xFF
    path.write_bytes(hurt)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_what_is_damaged_is_sampled_again(
    copied: Path, run: Run, expected: np.ndarray, sampled: Sampled,
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None],
) -> None:  # fmt: skip
    decode = failing(1, KeyboardInterrupt(), passages.decode_video)
    monkeypatch.setattr(passages, "decode_video", decode)
    command = ["infer", *at(copied), *BARE, "--seed", "4"]
    assert run(*command).status == 130
    (path,) = kept(copied)
    damage(path)
    assert f"{path} is damaged" in ok(run(*command)).err
    assert sampled == [[4], [4]]
    assert np.array_equal(frames_of(copied), expected)


@pytest.mark.parametrize("setting", ["inference.steps=3", "prompt.edited_caption=a ship"])
def test_another_command_uses_nothing_of_it(
    copied: Path, run: Run, sampled: Sampled, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    decode = failing(1, KeyboardInterrupt(), passages.decode_video)
    monkeypatch.setattr(passages, "decode_video", decode)
    assert run("infer", *at(copied), *BARE).status == 130
    ok(run("infer", *at(copied, setting), *BARE))
    assert sampled == [[0], [0]]


def test_what_cannot_be_kept_is_told_and_the_result_written(
    copied: Path, run: Run, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = TensorCache.put

    def full(cache: TensorCache, name: str, tensors: dict[str, Tensor]) -> None:
        if name.startswith("sampled-"):
            raise OSError(errno.ENOSPC, "No space left on device", name)
        put(cache, name, tensors)

    monkeypatch.setattr(TensorCache, "put", full)
    answer = ok(run("infer", *at(copied), *BARE, "--seed", "4"))
    assert "seed 4 is sampled, and cannot be kept" in answer.err
    assert np.array_equal(frames_of(copied), expected)
