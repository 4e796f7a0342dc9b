"""Stored tensors: read by other names, cut, exchanged, scaled; in pieces and from many threads."""

import itertools
import json
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.streaming import tensor_files as checkpoint
from maskora.streaming.blocks import precise
from maskora.streaming.header import Place, read_header, shards
from maskora.streaming.tensor_files import (
    READERS,
    Checkpoint,
    Translated,
    read_bytes,
    read_pickled,
)
from tests.system import posix_only

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WIDTH = 10
NUMBERS = torch.Generator().manual_seed(0)
FUSED = torch.randn(12, WIDTH, generator=NUMBERS)
TENSORS = {
    "plain": FUSED,
    "half": FUSED.bfloat16(),
    "small": FUSED.to(torch.float8_e4m3fn),
    "one": torch.tensor(0.037),
    "rows": torch.rand(12, 1, generator=NUMBERS),
    "vector": torch.randn(1, 6, generator=NUMBERS),
}
SMALL, HALF = TENSORS["small"].float(), TENSORS["half"].float()
# Where a parameter lies, and its values by plain indexing, in float32.
PARAMETERS = {
    "whole": (Place("plain", ((0, 12),)), FUSED),
    "middle": (Place("plain", ((4, 8),)), FUSED[4:8]),
    "swapped": (Place("half", ((6, 12), (0, 6))), torch.cat([HALF[6:], HALF[:6]])),
    "scaled": (Place("small", ((0, 12),), "one"), SMALL * TENSORS["one"]),
    "scaled by row": (Place("small", ((3, 12),), "rows"), (SMALL * TENSORS["rows"])[3:]),
    "unscaled": (Place("small", ((0, 12),)), SMALL),
    "vector": (Place("vector", ((0, 1),)), TENSORS["vector"]),
}
VALUES = {name: values for name, (_, values) in PARAMETERS.items()}
PLACES = {name: place for name, (place, _) in PARAMETERS.items()}


@pytest.fixture(scope="module", params=["safetensors", "pth"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("stored") / f"file.{request.param}"
    if request.param == "pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    return path


@pytest.fixture
def reader(stored: Path) -> Translated:
    found = read_pickled(stored) if stored.suffix == ".pth" else read_header(stored)
    return Translated(Checkpoint(found, str(stored)), PLACES, ["odd"], lambda name: f"their {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [4, 120, 32 * 2**20])
def test_every_place_is_read_exactly(
    reader: Translated, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, piece: int
) -> None:
    """Whatever fits a buffer: one value, three rows, or all."""
    monkeypatch.setattr(checkpoint, "CONVERSION_BYTES", piece)
    for name, value in VALUES.items():
        out = torch.full(value.shape, torch.nan, dtype=dtype)
        reader.read_into(name, out)
        assert torch.equal(out, value.to(dtype)), name


@pytest.mark.parametrize("piece", [120, 32 * 2**20])
def test_every_span_of_a_place_is_read_exactly(
    reader: Translated, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(checkpoint, "CONVERSION_BYTES", piece)
    for name, value in VALUES.items():
        flat = value.to(torch.bfloat16).reshape(-1)
        for start, count in itertools.product(range(0, len(flat), 7), (1, 9, 10, 35, len(flat))):
            wanted = flat[start : start + count]
            out = torch.full(wanted.shape, torch.nan, dtype=torch.bfloat16)
            reader.read_span(name, start, out)
            assert torch.equal(out, wanted), (name, start, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_picked_in_any_order(reader: Translated, dtype: torch.dtype) -> None:
    for name in ("whole", "middle", "swapped", "scaled", "scaled by row"):
        picked = reader.read_rows(name, [3, 0, 3, 1], dtype)
        assert torch.equal(picked, VALUES[name][[3, 0, 3, 1]].to(dtype))


def test_many_threads_read_at_once(reader: Translated) -> None:
    def read(name: str) -> bool:
        out = torch.empty(VALUES[name].shape)
        reader.read_into(name, out)
        return torch.equal(out, VALUES[name])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [*VALUES] * 40))


def test_shapes_are_held_against_the_module(reader: Translated) -> None:
    for name, value in VALUES.items():
        reader.check(name, tuple(value.shape))
    reader.check("vector", (6,))
    for name, shape, message in (
        ("middle", (5, WIDTH), r"file\..*: plain is \(4, 10\) \(of \(12, 10\)\) instead of"),
        ("swapped", (120,), r"file\..*: half is \(12, 10\) instead of \(120,\)"),
        ("missing", (1,), "lacks the tensor their missing"),
    ):
        with pytest.raises(UserError, match=message):
            reader.check(name, shape)


def test_names_are_the_modules_and_in_messages_the_files(reader: Translated) -> None:
    assert set(reader.names()) == {*PLACES, "odd"}
    names = [reader.name_in_file(name) for name in ("swapped", "odd", "missing")]
    assert names == ["half", "odd", "their missing"]


def test_scaled_weights_are_in_no_precision_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.zeros(200, 10), "b": torch.zeros(1), "s": torch.ones(())}, path)
    stored = Checkpoint(read_header(path), str(path))

    def reader(scale: str | None) -> Translated:
        places = {"a": Place("a", ((0, 200),), scale), "b": Place("b", ((0, 1),))}
        return Translated(stored, places, [], str)

    assert reader(None).is_in(precise(torch.float32))
    assert not reader(None).is_in(precise(torch.bfloat16))
    assert not reader("s").is_in(precise(torch.float32))


SIZE, PIECE = 10_000, 700
CONTENT = torch.randint(256, (SIZE,), dtype=torch.uint8, generator=NUMBERS)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bytes that tell where they stand, read in fifteen pieces."""
    monkeypatch.setattr(checkpoint, "READ_BYTES", PIECE)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(CONTENT.numpy().tobytes())
    return path


def empty() -> Tensor:
    return torch.empty(SIZE, dtype=torch.uint8)


def test_every_span_is_read(file: Path) -> None:
    starts, counts = (0, 1, 699, 700, 9_999), (0, 1, 699, 700, 701, 5_000, SIZE)
    for start, count in itertools.product(starts, counts):
        out = torch.empty(min(count, SIZE - start), dtype=torch.uint8)
        read_bytes(file, start, out)
        assert torch.equal(out, CONTENT[start : start + count]), (start, count)


def test_many_threads_read_large_spans_at_once(file: Path) -> None:
    """More than there are readers, as the streaming's own thread and the main one may."""

    def read(_: int) -> bool:
        out = empty()
        read_bytes(file, 0, out)
        return torch.equal(out, CONTENT)

    with ThreadPoolExecutor(2 * READERS) as pool:
        assert all(pool.map(read, range(40)))


def test_a_system_without_positional_reads_that_gives_little_at_a_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "preadv", raising=False)
    monkeypatch.delattr(os, "pread", raising=False)
    _patch_reads(monkeypatch, lambda file, view: file.readinto(view[:100]))
    out = empty()
    read_bytes(file, 0, out)
    assert torch.equal(out, CONTENT)


@pytest.mark.parametrize("size", [0, 500, 5_000, SIZE - 1])
def test_a_file_that_ends_early_is_told_with_its_path(file: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(Fault, match=r"weights\.safetensors ends early: it changed while"):
        read_bytes(file, 0, empty())


def test_a_file_that_is_gone_is_told_with_its_path(file: Path) -> None:
    file.unlink()
    with pytest.raises(Fault, match=r"weights\.safetensors: No such file"):
        read_bytes(file, 0, empty())


@pytest.mark.parametrize("count", [10, SIZE])
def test_a_disk_that_fails_is_told_with_the_path(
    file: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Any, view: memoryview) -> int:
        raise OSError(5, "Input/output error")

    _patch_reads(monkeypatch, broken)
    with pytest.raises(Fault, match=r"cannot be read from .*weights\.safetensors: Input/output"):
        read_bytes(file, 0, empty()[:count])


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
            self._file, self.seek = file, file.seek

        def __enter__(self) -> "Odd":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def readinto(self, view: memoryview) -> int:
            return readinto(self._file, view)

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *given, **more: Odd(opened(self, *given, **more))
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}, "is described wrongly"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}, "is described wrongly"),
        ({"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}, "is described wrongly"),
        ({"dtype": "F32", "shape": [1] * 17 + [2], "data_offsets": [0, 8]}, "is described wrongly"),
        ({"dtype": "F32", "shape": [2**64, 0], "data_offsets": [0, 0]}, "is described wrongly"),
        ({"dtype": "F32", "shape": [2]}, "in an unknown way"),
        ({"dtype": "F3", "shape": [4], "data_offsets": [0, 16]}, "in an unknown way .*F3"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}, "is cut off within odd"),
    ],
)
def test_a_header_that_cannot_be_so_is_told(
    tmp_path: Path, entry: dict[str, object], message: str
) -> None:
    text = json.dumps({"odd": entry}).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(UserError, match=message):
        read_header(path)


PLAIN_SHARDS = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
HALF_SHARDS = ["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"]
INDEX, HALF_INDEX = "m.safetensors.index.json", "m.fp16.safetensors.index.json"


@pytest.mark.parametrize(
    ("indices", "others", "found"),
    [
        ({HALF_INDEX: HALF_SHARDS, INDEX: PLAIN_SHARDS}, [], PLAIN_SHARDS),
        (
            {"m.safetensors.index.fp16.json": HALF_SHARDS, INDEX: PLAIN_SHARDS},
            [],
            PLAIN_SHARDS,
        ),
        ({HALF_INDEX: HALF_SHARDS}, ["m.safetensors"], ["m.safetensors"]),
        ({INDEX: PLAIN_SHARDS}, ["m.fp16.safetensors"], PLAIN_SHARDS),
        ({}, ["m.fp16.safetensors", *PLAIN_SHARDS], PLAIN_SHARDS),
        ({HALF_INDEX: HALF_SHARDS}, [], HALF_SHARDS),
    ],
)
def test_a_folders_plain_weights_count_beside_a_variant(
    indices: dict[str, list[str]], others: list[str], found: list[str], tmp_path: Path
) -> None:
    for index, files in indices.items():
        weights = dict(zip("ab", files, strict=True))
        (tmp_path / index).write_text(json.dumps({"weight_map": weights}))
    for name in itertools.chain(others, *indices.values()):
        (tmp_path / name).touch()
    assert [path.name for path in shards(tmp_path)] == found
    for name in PLAIN_SHARDS:
        (tmp_path / name).unlink(missing_ok=True)
    if INDEX in indices:  # a missing shard is named rather than a variant taken
        assert [path.name for path in shards(tmp_path)] == found


def test_a_header_of_great_size_or_depth_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    with path.open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little"))
        file.truncate(100_000_000)  # takes no room on the disk
    with pytest.raises(UserError, match="header of 90000000 bytes is too large"):
        read_header(path)
    for text in (b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"):
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(UserError, match="is no readable safetensors file"):
            read_header(path)


@posix_only
@pytest.mark.parametrize("read", [read_header, read_pickled])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match="a file is needed there"):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(3))
def test_a_pth_file_with_damage_is_told(tmp_path: Path, seed: int) -> None:
    """Wherever it is: the archive's directory, the pickle, its numbers."""
    generator, path = random.Random(seed), tmp_path / "a.pth"
    torch.save({f"a.{number}": torch.ones(3, 4) for number in range(3)}, path)
    whole = path.read_bytes()
    ends = (range(700), range(len(whole) - 700, len(whole)))
    for _ in range(200):
        broken = bytearray(whole)
        for _ in range(generator.choice((1, 2, 5))):
            broken[generator.choice(generator.choice(ends))] = generator.randrange(256)
        path.write_bytes(broken)
        with suppress(UserError):
            read_pickled(path)


def test_tensors_without_values_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3, device="meta")}, path)
    with pytest.raises(UserError, match="a is described wrongly"):
        read_pickled(path)
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(UserError, match="in a way that is not read here"):
        read_pickled(path)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "..\\b", "C:\\b"])
def test_an_index_names_files_of_its_own_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        shards(tmp_path)
