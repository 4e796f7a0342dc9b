"""A block's bytes by the piece are those of the whole block, wherever they come from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskora.models.building import Renamed
from maskora.streaming.blocks import ALIGNMENT, Block, precise
from maskora.streaming.checkpoint import Checkpoint, ModuleReader, Reader, Translated
from maskora.streaming.header import Place, read_header
from maskora.streaming.sources import BlockSource, CheckpointBlocks, HostBlocks, convert

CPU = torch.device("cpu")
PREFIX = "block."


def module() -> nn.Module:
    """Matrices, vectors that do not fill a border, and a scalar."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.Linear(24, 40, bias=False))
    one.register_parameter("scalar", nn.Parameter(torch.tensor(0.3)))
    return one


@pytest.fixture(params=["module", "checkpoint", "translated", "renamed"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Reader:
    holder = nn.ModuleDict({"block": module()})
    if request.param == "module":
        return ModuleReader(holder)
    path = tmp_path / "file.safetensors"
    save_file({name: value.detach() for name, value in holder.named_parameters()}, path)
    checkpoint = Checkpoint(read_header(path), str(path))
    names = {name: name for name in checkpoint.names()}
    if request.param == "translated":
        heights = {name: (*checkpoint.stored(name).shape, 1)[0] for name in names}
        places = {name: Place(name, ((0, height),)) for name, height in heights.items()}
        return Translated(checkpoint, places, [], str)
    return Renamed(checkpoint, names) if request.param == "renamed" else checkpoint


@pytest.mark.parametrize("kept", ["on the way", "host", "file"])
@pytest.mark.parametrize("storage", ["same", "float8", "int8"])
def test_spans_of_any_length_make_the_block(
    reader: Reader, storage: str, kept: str, tmp_path: Path
) -> None:
    block = Block(module(), PREFIX, storage, precise(torch.bfloat16), CPU)
    source: BlockSource = CheckpointBlocks(reader, [block], CPU)
    if kept == "host":
        source = HostBlocks(source, [block], [0], pin=False)
    elif kept == "file":
        source = convert(tmp_path / "converted.safetensors", source, [block])
    size = block.layout.nbytes
    whole = torch.zeros(size, dtype=torch.uint8)
    source.fill(0, whole)
    assert any(place.view(whole).any() for place in block.layout.slices)
    for length in (ALIGNMENT, 3 * ALIGNMENT, 17 * ALIGNMENT, size):
        parts: list[Tensor] = []
        for start in range(0, size, length):
            part = torch.zeros(min(length, size - start), dtype=torch.uint8)
            source.fill(0, part, start)
            parts.append(part)
        assert torch.equal(torch.cat(parts), whole), length
