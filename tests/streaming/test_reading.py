"""Files read in pieces at once: the bytes, and every failure told as of a single read."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskora.errors import Fault
from maskora.streaming import checkpoint
from maskora.streaming.checkpoint import READERS, read_bytes

SIZE, PIECE = 10_000, 700


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bytes that tell where they stand, read in fifteen pieces."""
    monkeypatch.setattr(checkpoint, "READ_BYTES", PIECE)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content().numpy().tobytes())
    return path


def content() -> Tensor:
    return torch.randint(
        256, (SIZE,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("start", [0, 1, 699, 700, 9_999])
@pytest.mark.parametrize("count", [0, 1, 699, 700, 701, 5_000, SIZE])
def test_every_span_is_read(file: Path, start: int, count: int) -> None:
    out = torch.empty(min(count, SIZE - start), dtype=torch.uint8)
    read_bytes(file, start, out)
    assert torch.equal(out, content()[start : start + count])


def test_many_threads_read_large_spans_at_once(file: Path) -> None:
    """More than there are readers, as the streaming's own thread and the main one may."""

    def read(_: int) -> bool:
        out = torch.empty(SIZE, dtype=torch.uint8)
        read_bytes(file, 0, out)
        return torch.equal(out, content())

    with ThreadPoolExecutor(2 * READERS) as pool:
        assert all(pool.map(read, range(40)))


def test_a_system_without_positional_reads_that_gives_little_at_a_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "preadv", raising=False)
    monkeypatch.delattr(os, "pread", raising=False)
    _patch_reads(monkeypatch, lambda file, view: file.readinto(view[:100]))
    out = torch.empty(SIZE, dtype=torch.uint8)
    read_bytes(file, 0, out)
    assert torch.equal(out, content())


@pytest.mark.parametrize("size", [0, 500, 5_000, SIZE - 1])
def test_a_file_that_ends_early_is_told_with_its_path(file: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(Fault, match=r"weights\.safetensors ends early: it changed while"):
        read_bytes(file, 0, torch.empty(SIZE, dtype=torch.uint8))


@pytest.mark.parametrize("count", [10, SIZE])
def test_a_disk_that_fails_is_told_with_the_path(
    file: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Any, view: memoryview) -> int:
        raise OSError(5, "Input/output error")

    _patch_reads(monkeypatch, broken)
    with pytest.raises(Fault, match=r"cannot be read from .*weights\.safetensors: Input/output"):
        read_bytes(file, 0, torch.empty(count, dtype=torch.uint8))


def test_a_file_that_is_gone_is_told_with_its_path(file: Path) -> None:
    file.unlink()
    with pytest.raises(Fault, match=r"weights\.safetensors: No such file"):
        read_bytes(file, 0, torch.empty(SIZE, dtype=torch.uint8))


def test_after_a_failure_nothing_is_written_any_more(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was refused a piece may use the buffer for something else."""
    reading = threading.Event()

    def read(file: Any, view: memoryview) -> int:
        if file.tell() == 0:
            assert reading.wait(10)
            raise OSError(5, "Input/output error")
        reading.set()
        threading.Event().wait(0.02)  # the others are slower than the failure
        return int(file.readinto(view))

    _patch_reads(monkeypatch, read)
    out = torch.zeros(SIZE, dtype=torch.uint8)
    with pytest.raises(Fault):
        read_bytes(file, 0, out)
    before = out.clone()
    threading.Event().wait(0.2)
    assert torch.equal(out, before)


def _patch_reads(
    monkeypatch: pytest.MonkeyPatch, readinto: Callable[[Any, memoryview], int]
) -> None:
    """Files opened from now on read as a function says."""

    class Odd:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> "Odd":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def seek(self, offset: int) -> None:
            self._file.seek(offset)

        def readinto(self, view: memoryview) -> int:
            return readinto(self._file, view)

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *given, **more: Odd(opened(self, *given, **more))
    )
