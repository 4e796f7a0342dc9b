"""Bandwidths: bytes really move, through the engine's own memory, and nothing is left behind."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from maskora.app.doctor import bandwidths
from maskora.app.doctor.bandwidths import (
    disk_bandwidth,
    pinned_bandwidth,
    ram_bandwidth,
    staged_bandwidth,
)
from maskora.streaming.engine import Streamer
from maskora.streaming.host_memory import host_buffer

CPU = torch.device("cpu")
BYTES = 4_000_000


def test_copies_leave_memory_that_the_engine_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []

    def watched(nbytes: int, pin: bool) -> torch.Tensor:
        asked.append((nbytes, pin))
        return host_buffer(nbytes, pin)

    monkeypatch.setattr(bandwidths, "host_buffer", watched)
    assert 1e8 < (pinned_bandwidth(CPU, BYTES) or 0) < 1e12
    assert asked == [(BYTES, True)]


def test_memory_that_cannot_be_pinned_has_no_such_bandwidth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bandwidths, "is_ready", lambda buffer: False)
    assert pinned_bandwidth(CPU, BYTES) is None


def test_staged_copies_are_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[int] = []
    enter = Streamer._enter

    def watched(self: Streamer, index: int, direction: Any) -> None:
        visited.append(index)
        enter(self, index, direction)

    monkeypatch.setattr(Streamer, "_enter", watched)
    assert 1e7 < staged_bandwidth(CPU, BYTES) < 1e12
    assert visited == [0, 1, 2] * (1 + bandwidths.ROUNDS)


def test_ram_is_copied() -> None:
    assert 1e8 < ram_bandwidth(BYTES) < 1e13


def test_a_disk_is_written_and_read_and_left_as_it_was(tmp_path: Path) -> None:
    speed = disk_bandwidth(tmp_path / "cache", 40_000_000)
    assert speed.write > 1e5
    assert speed.read > 1e5
    assert list((tmp_path / "cache").iterdir()) == []


def test_reads_that_may_come_out_of_ram_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, really_open = getattr(os, "O_DIRECT", 0), os.open

    def without_direct_reads(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really_open(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", without_direct_reads)
    assert disk_bandwidth(tmp_path, 40_000_000).cached
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    assert disk_bandwidth(tmp_path, 40_000_000).cached


def test_a_full_disk_is_an_error_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        disk_bandwidth(tmp_path, 40_000_000)
    assert list(tmp_path.iterdir()) == []
