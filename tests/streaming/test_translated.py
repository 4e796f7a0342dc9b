"""Stored tensors by other names: cut, exchanged, scaled, in small pieces and from many threads."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.streaming import checkpoint
from maskora.streaming import checkpoint as translated
from maskora.streaming.blocks import precise
from maskora.streaming.checkpoint import Checkpoint, Translated, read_pickled
from maskora.streaming.header import Place, read_header

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WIDTH = 10


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    fused = torch.randn(12, WIDTH, generator=numbers)
    return {
        "plain": fused,
        "half": fused.bfloat16(),
        "small": fused.to(torch.float8_e4m3fn),
        "one": torch.tensor(0.037),
        "rows": torch.rand(12, 1, generator=numbers),
        "vector": torch.randn(1, 6, generator=numbers),
    }


PLACES = {
    "whole": Place("plain", ((0, 12),)),
    "middle": Place("plain", ((4, 8),)),
    "swapped": Place("half", ((6, 12), (0, 6))),
    "scaled": Place("small", ((0, 12),), "one"),
    "scaled by row": Place("small", ((3, 12),), "rows"),
    "unscaled": Place("small", ((0, 12),)),
    "vector": Place("vector", ((0, 1),)),
}


def expected(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The places' values by plain indexing, in float32."""
    plain, half = tensors["plain"], tensors["half"].float()
    small, one, rows = tensors["small"].float(), tensors["one"], tensors["rows"]
    return {
        "whole": plain,
        "middle": plain[4:8],
        "swapped": torch.cat([half[6:], half[:6]]),
        "scaled": small * one,
        "scaled by row": (small * rows)[3:],
        "unscaled": small,
        "vector": tensors["vector"],
    }


@pytest.fixture(params=["safetensors", "pth"])
def reader(
    request: pytest.FixtureRequest, tensors: dict[str, Tensor], tmp_path: Path
) -> Translated:
    path = tmp_path / f"file.{request.param}"
    if request.param == "pth":
        torch.save(tensors, path)
        stored = read_pickled(path)
    else:
        save_file(tensors, path)
        stored = read_header(path)
    return Translated(Checkpoint(stored, str(path)), PLACES, ["odd"], lambda name: f"their {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [1, 120, 32 * 2**20])
def test_every_place_is_read_exactly(
    reader: Translated,
    tensors: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    piece: int,
) -> None:
    """Whatever fits a buffer: half a value, three rows, or all."""
    monkeypatch.setattr(translated, "CONVERSION_BYTES", piece)
    monkeypatch.setattr(checkpoint, "CONVERSION_BYTES", max(piece, 4))
    for name, value in expected(tensors).items():
        out = torch.full(value.shape, torch.nan, dtype=dtype)
        reader.read_into(name, out)
        assert torch.equal(out, value.to(dtype)), name


@pytest.mark.parametrize("piece", [120, 32 * 2**20])
def test_every_span_of_a_place_is_read_exactly(
    reader: Translated, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(translated, "CONVERSION_BYTES", piece)
    for name, value in expected(tensors).items():
        flat = value.to(torch.bfloat16).reshape(-1)
        for start, count in itertools.product(range(0, len(flat), 7), (1, 9, 10, 35, len(flat))):
            wanted = flat[start : start + count]
            out = torch.full(wanted.shape, torch.nan, dtype=torch.bfloat16)
            reader.read_span(name, start, out)
            assert torch.equal(out, wanted), (name, start, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_picked_in_any_order(
    reader: Translated, tensors: dict[str, Tensor], dtype: torch.dtype
) -> None:
    for name in ("whole", "middle", "scaled", "scaled by row"):
        picked = reader.read_rows(name, [3, 0, 3, 1], dtype)
        assert torch.equal(picked, expected(tensors)[name][[3, 0, 3, 1]].to(dtype))


def test_many_threads_read_at_once(reader: Translated, tensors: dict[str, Tensor]) -> None:
    values = expected(tensors)

    def read(name: str) -> bool:
        out = torch.empty(values[name].shape)
        reader.read_into(name, out)
        return torch.equal(out, values[name])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [*values] * 40))


def test_shapes_are_held_against_the_module(reader: Translated, tensors: dict[str, Tensor]) -> None:
    for name, value in expected(tensors).items():
        reader.check(name, tuple(value.shape))
    reader.check("vector", (6,))
    with pytest.raises(
        UserError, match=r"file\..*: plain is \(4, 10\) \(of \(12, 10\)\) instead of"
    ):
        reader.check("middle", (5, WIDTH))
    with pytest.raises(UserError, match=r"file\..*: half is \(12, 10\) instead of \(120,\)"):
        reader.check("swapped", (120,))
    with pytest.raises(UserError, match="lacks the tensor their missing"):
        reader.check("missing", (1,))


def test_names_are_the_modules_and_called_as_in_the_file(reader: Translated) -> None:
    assert set(reader.names()) == {*PLACES, "odd"}
    assert reader.name_in_file("swapped") == "half"
    assert reader.name_in_file("odd") == "odd"
    assert reader.name_in_file("missing") == "their missing"


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


def test_a_file_that_shrinks_in_use_is_a_fault(reader: Translated, tmp_path: Path) -> None:
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")
    with pytest.raises(Fault, match="ends early"):
        reader.read_into("scaled", torch.empty(12, WIDTH))
