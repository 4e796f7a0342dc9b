"""The doctor's checks: what is wrong is found; bytes really move, and nothing is left behind."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskora.app.doctor import checks
from maskora.app.doctor.outcomes import Bench, Found, Outcome, Skipped, Wrong, perform
from maskora.streaming.engine import Streamer
from maskora.streaming.host_memory import host_buffer
from maskora.streaming.transfer import HostToDevice
from tests.streaming.drivers import Quota

GIB = 2**30
CPU, BYTES = torch.device("cpu"), 4_000_000
SMALL = checks.Shape("nothing published", 256, 1024, 2)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(torch.device("cpu"), tmp_path, tmp_path, ram=2 * GIB, vram=None)


def performed(work: Callable[[Bench], Found], bench: Bench) -> Outcome:
    return perform("a check", lambda: work(bench), "the usual advice")


FROM_DISK = partial(checks.stream_from_disk, shape=SMALL)
WAYS = pytest.mark.parametrize(
    "work",
    [*(partial(checks.stream_from_ram, weights=one, shape=SMALL) for one in ("pinned", "pageable")),
     FROM_DISK],
    ids=["from RAM", "through staging", "from disk"],
)  # fmt: skip


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Change one bit of what a copy has brought: of which copy, and at which byte."""

    def change(number: int, byte: int) -> None:
        copies, really_copy = iter(range(1_000_000)), HostToDevice.copy

        def copy(self: HostToDevice, source: Tensor, target: Tensor, *after: Any) -> Any:
            moment = really_copy(self, source, target, *after)
            if next(copies) == number:
                target.view(-1).view(torch.uint8)[byte] ^= 1
            return moment

        monkeypatch.setattr(HostToDevice, "copy", copy)

    return change


@WAYS
def test_blocks_arrive_as_they_were_written(work: Callable[[Bench], Found], bench: Bench) -> None:
    outcome = performed(work, bench)
    assert (outcome.state, outcome.advice, outcome.notes) == ("ok", "", ())
    assert "3 blocks of 2 MB" in outcome.message
    assert "every byte compared at 9 visits" in outcome.message
    assert list(bench.scratch.iterdir()) == []


@WAYS
@pytest.mark.parametrize("number", [0, 4])
def test_one_wrong_bit_in_a_streamed_block_is_found(
    work: Callable[[Bench], Found], number: int, bench: Bench, plant: Callable[[int, int], None]
) -> None:
    plant(number, 1_000_003)
    outcome = performed(work, bench)
    assert outcome.state == "broken"
    assert "block" in outcome.message
    assert "is not what was written: 1 of its" in outcome.message
    assert "test the RAM" in outcome.advice
    assert list(bench.scratch.iterdir()) == []


@WAYS
def test_copies_that_do_nothing_are_found(
    work: Callable[[Bench], Found], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostToDevice, "copy", lambda *_: None)
    assert performed(work, bench).state == "broken"


def test_a_wrong_bit_on_the_disk_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    really_save = checks.save_file

    def save(tensors: dict[str, Tensor], path: Path) -> None:
        really_save(tensors, path)
        with path.open("r+b") as file:
            file.seek(-12_345, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-12_345, os.SEEK_END)
            file.write(bytes([byte ^ 64]))

    monkeypatch.setattr(checks, "save_file", save)
    outcome = performed(FROM_DISK, bench)
    assert outcome.state == "broken"
    assert f"block {checks.BLOCKS - 1}: " in outcome.message


@pytest.mark.parametrize(
    ("ram", "vram", "shape"),
    [
        (12 * GIB, None, checks.WIDE),
        (7 * GIB, None, checks.NARROW),
        (6 * GIB, 7 * GIB, checks.WIDE),  # there the ring lies on the GPU
        (12 * GIB, 3 * GIB, checks.NARROW),
        (GIB // 2, None, None),
        (12 * GIB, GIB // 3, None),
    ],
)
def test_blocks_are_as_wide_as_memory_allows(
    ram: int, vram: int | None, shape: Any, tmp_path: Path
) -> None:
    bench = Bench(torch.device("cpu"), tmp_path, tmp_path, ram, vram)
    if shape is None:
        with pytest.raises(Skipped, match="too little memory"):
            checks.affordable(bench)
    else:
        assert checks.affordable(bench) is shape


def test_narrower_blocks_are_mentioned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "affordable", lambda _: SMALL)
    found = checks.stream_from_ram(bench, "pinned")
    assert "nothing published" in found.message
    assert "too little memory is free for those of Wan2.1-I2V-14B" in found.message


def test_wide_blocks_are_the_published_ones() -> None:
    sizes = (checks._nbytes(n, p) for n, p in checks.WIDE.build()[0].named_parameters())
    assert sum(sizes) == pytest.approx(807e6, rel=0.002)


def test_training_is_the_same_wherever_the_blocks_lie(
    bench: Bench, plant: Callable[[int, int], None]
) -> None:
    assert "equal bit for bit" in checks.train_streamed_and_resident(bench).message
    plant(12, 3)  # the sign, or the exponent, of a weight
    outcome = performed(checks.train_streamed_and_resident, bench)
    assert outcome.state == "broken"
    assert "differ from those with resident ones" in outcome.message


@pytest.mark.parametrize(
    ("again", "streamed", "words"),
    [
        (1.0, 2.0, None),
        (1.0, 1.00001, None),
        (1.00001, 1.00002, "but for rounding"),
        (1.1, 2.0, None),
    ],
)
def test_rounding_is_excused_only_where_the_device_rounds_differently_by_itself(
    again: float, streamed: float, words: str | None, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, streamed, again])
    monkeypatch.setattr(checks, "_train", lambda *_: ([next(losses)], [torch.zeros(2)]))
    if words is None:
        with pytest.raises(Wrong, match="differ"):
            checks.train_streamed_and_resident(bench)
    else:
        assert words in checks.train_streamed_and_resident(bench).message


def test_without_a_gpu_nothing_is_pinned_and_the_8_bit_optimizer_says_why_it_is_skipped(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert performed(checks.measure_pinning, bench).state == "skipped"
    with pytest.raises(Skipped, match="needs a GPU"):
        checks.step_in_8_bits(bench)
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    gpu = Bench(torch.device("cuda"), tmp_path, tmp_path, GIB, GIB)
    with pytest.raises(Skipped, match=r"bitsandbytes is not installed.*\[quant\]"):
        checks.step_in_8_bits(gpu)


@pytest.mark.parametrize("failure", [None, "libcudart.so.13 is missing"])
def test_bitsandbytes_is_tried(
    failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _: object())
    monkeypatch.setattr(checks, "failed_trial", lambda device: failure)
    gpu = Bench(torch.device("cuda"), tmp_path, tmp_path, GIB, GIB)
    outcome = performed(checks.step_in_8_bits, gpu)
    assert outcome.state == ("broken" if failure else "ok")
    assert (failure or "") in outcome.message


def test_numbers_of_the_vae_that_are_not_finite_are_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = torch.zeros(3, 5, 64, 64)
    odd[1, 2, 3, 4] = torch.nan
    vae = SimpleNamespace(encode=lambda _: torch.zeros(16, 2, 8, 8), decode=lambda _: odd)
    monkeypatch.setattr(checks, "normalised", lambda _: vae)
    with pytest.raises(Wrong, match="1 not finite"):
        checks.encode_and_decode(bench)


def test_a_clip_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bit for bit" in checks.write_and_read_clip(bench).message
    assert list(bench.scratch.iterdir()) == []
    really_read = checks.read_frames

    def read(info: Any) -> Iterator[np.ndarray]:
        for frame in really_read(info):
            frame[5, 5, 0] ^= 1
            yield frame

    monkeypatch.setattr(checks, "read_frames", read)
    with pytest.raises(Wrong, match="come back changed"):
        checks.write_and_read_clip(bench)
    assert list(bench.scratch.iterdir()) == []


@pytest.mark.parametrize(
    "quota", [0, checks.PINNED_PIECE - 1, 2 * checks.PINNED_PIECE, 5 * checks.PINNED_PIECE + 7]
)
def test_what_can_be_pinned_is_tried_and_given_back(quota: int) -> None:
    driver = Quota(quota)
    pinned, refused = checks.pinnable(driver, 4 * checks.PINNED_PIECE)
    assert pinned == min(quota // checks.PINNED_PIECE, 4) * checks.PINNED_PIECE
    assert refused == ("" if quota >= 4 * checks.PINNED_PIECE else "out of memory")
    assert driver.pinned == {}
    assert driver.left == quota


def test_a_full_disk_is_reported_without_its_path_and_nothing_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(bench.cache))

    monkeypatch.setattr(os, "write", full)
    outcome = performed(checks.measure_disk, bench)
    assert (outcome.state, outcome.message) == ("broken", "No space left on device")
    assert list(bench.cache.iterdir()) == []


def test_whatever_a_check_raises_is_an_outcome_and_what_it_warns_of_a_note() -> None:
    def fail() -> Found:
        logging.getLogger("maskora").warning("note: %d blocks are slow", 3)
        print("a bar", file=sys.stderr)
        raise ZeroDivisionError("first line\nsecond line")

    outcome = perform("a check", fail, "the usual advice")
    assert (outcome.state, outcome.message) == ("broken", "ZeroDivisionError: first line")
    assert (outcome.advice, outcome.notes) == ("the usual advice", ("3 blocks are slow",))
    assert outcome.seconds >= 0


def test_copies_leave_memory_that_the_engine_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []

    def watched(nbytes: int, pin: bool) -> torch.Tensor:
        asked.append((nbytes, pin))
        return host_buffer(nbytes, pin)

    monkeypatch.setattr(checks, "host_buffer", watched)
    assert 1e8 < (checks.pinned_bandwidth(CPU, BYTES) or 0) < 1e12
    assert asked == [(BYTES, True)]
    monkeypatch.setattr(checks, "is_ready", lambda buffer: False)
    assert checks.pinned_bandwidth(CPU, BYTES) is None, "memory that cannot be pinned has none"


def test_staged_copies_are_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[int] = []
    enter = Streamer._enter

    def watched(self: Streamer, index: int, direction: Any) -> None:
        visited.append(index)
        enter(self, index, direction)

    monkeypatch.setattr(Streamer, "_enter", watched)
    assert 1e7 < checks.staged_bandwidth(CPU, BYTES) < 1e12
    assert visited == [0, 1, 2] * (1 + checks.ROUNDS)


def test_ram_is_copied_and_a_disk_left_as_it_was(tmp_path: Path) -> None:
    assert 1e8 < checks.ram_bandwidth(BYTES) < 1e13
    write, read, _ = checks.disk_bandwidth(tmp_path / "cache", 40_000_000)
    assert write > 1e5
    assert read > 1e5
    assert list((tmp_path / "cache").iterdir()) == []


def test_reads_that_may_come_out_of_ram_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, really_open = getattr(os, "O_DIRECT", 0), os.open

    def without_direct_reads(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really_open(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", without_direct_reads)
    assert checks.disk_bandwidth(tmp_path, 40_000_000)[2]
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    assert checks.disk_bandwidth(tmp_path, 40_000_000)[2]
