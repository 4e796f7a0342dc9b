"""Where blocks come from: the same bytes by the piece; a converted copy that is always whole."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskora import files
from maskora.errors import Fault
from maskora.models.building import Renamed
from maskora.streaming import sources
from maskora.streaming.blocks import ALIGNMENT, Block, precise
from maskora.streaming.header import Place, read_header
from maskora.streaming.sources import BlockSource, CheckpointBlocks, HostBlocks, convert
from maskora.streaming.tensor_files import Checkpoint, ModuleReader, Reader, Translated

CPU = torch.device("cpu")


def module() -> nn.Module:
    """Matrices, vectors that do not fill a border, and a scalar."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.Linear(24, 40, bias=False))
    one.register_parameter("scalar", nn.Parameter(torch.tensor(0.3)))
    return one


def as_block(prefix: str, storage: str = "float8") -> Block:
    return Block(module(), prefix, storage, precise(torch.bfloat16), CPU)


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
        heights = {name: (*checkpoint.shape(name), 1)[0] for name in names}
        places = {name: Place(name, ((0, height),)) for name, height in heights.items()}
        return Translated(checkpoint, places, [], str)
    return Renamed(checkpoint, names) if request.param == "renamed" else checkpoint


@pytest.mark.parametrize("kept", ["on the way", "host", "file"])
@pytest.mark.parametrize("storage", ["same", "float8", "int8"])
def test_spans_of_any_length_make_the_block(
    reader: Reader, storage: str, kept: str, tmp_path: Path
) -> None:
    block = as_block("block.", storage)
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


class Converting:
    """Five blocks whose converted copy goes to a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "weights.safetensors"
        holder = nn.ModuleDict({str(i): module() for i in range(5)})
        for index, parameter in enumerate(holder.parameters()):
            parameter.data += index
        self.blocks = [as_block(f"{i}.") for i in range(5)]
        self.original = CheckpointBlocks(ModuleReader(holder), self.blocks, CPU)

    def read(self) -> list[Tensor]:
        """All blocks, through the converted copy."""
        source = convert(self.path, self.original, self.blocks)
        return [sources.read_block(source, i, block) for i, block in enumerate(self.blocks)]


@pytest.fixture
def converting(tmp_path: Path) -> Converting:
    return Converting(tmp_path / "cache")


def test_the_converted_file_of_earlier_versions_is_used(
    converting: Converting, caplog: pytest.LogCaptureFixture
) -> None:
    """People have such files, which have no digests: one of another form would be made again."""
    expected = converting.read()
    assert len(load_file(converting.path)) == 5
    content = converting.path.read_bytes()
    header = sources._head(converting.blocks)
    assert hashlib.sha256(header).hexdigest()[:16] == "f53a2719643c5758"
    earlier = header + content[8 + int.from_bytes(content[:8], "little") :]
    converting.path.write_bytes(earlier)
    caplog.clear()
    found = converting.read()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert converting.path.read_bytes() == earlier
    assert not caplog.messages


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, share: float = 0.99) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)


def flip_the_header(path: Path) -> None:
    flip(path, 0.001)


def zero_the_tail(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-500] + bytes(500))


def swap_two_blocks(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b'"0":', b'"x":').replace(b'"1":', b'"0":').replace(b'"x":', b'"1":')
    )


@pytest.mark.parametrize(
    "damage", [cut_off, make_empty, swap_two_blocks, flip, flip_the_header, zero_the_tail]
)
def test_a_damaged_copy_is_written_again(
    converting: Converting, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    expected, file = converting.read(), converting.path
    whole, written = file.read_bytes(), file.stat().st_mtime_ns
    converting.read()
    assert file.stat().st_mtime_ns == written
    assert "is damaged" not in caplog.text
    damage(file)
    assert file.read_bytes() != whole
    found = converting.read()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert file.read_bytes() == whole
    assert "is damaged and is written again" in caplog.text


TWO = """
import sys, time
from pathlib import Path
from tests.streaming.test_sources import Converting
converting = Converting(Path(sys.argv[1]))
fill = converting.original.fill
def slowly(*arguments):
    print("fills", flush=True)
    time.sleep(0.2)
    fill(*arguments)
converting.original.fill = slowly
import logging
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
blocks = converting.read()
print(len(blocks), hash(tuple(b for one in blocks for b in one.tolist())), flush=True)
"""


def test_two_processes_write_one_file_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(lines.count("fills") for lines in outputs) == 5
    assert outputs[0][-1] == outputs[1][-1]
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == ["weights.safetensors"]


def test_what_a_killed_conversion_has_left_is_removed_but_not_a_running_ones(
    converting: Converting,
) -> None:
    converting.folder.mkdir()
    place = files._place()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, running, elsewhere = (
        converting.folder / f".part-{name}-abc.safetensors"
        for name in (f"{place}-{dead.pid}", f"{place}-{os.getpid()}", f"01234567-{dead.pid}")
    )
    for part in (old, running, elsewhere):
        part.write_bytes(b"half")
    converting.read()
    assert not old.exists()
    assert running.exists()
    assert elsewhere.exists()


def test_a_place_that_cannot_be_written_to_names_the_way_out(converting: Converting) -> None:
    converting.folder.touch()
    with pytest.raises(Fault, match=r"could not be written to .* XDG_CACHE_HOME"):
        converting.read()


def test_a_disk_without_room_is_told_before_anything_is_written(
    converting: Converting, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(converting.folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(Fault, match=r"0\.0 GB are free there: make room"):
        converting.read()
    assert not list(converting.folder.iterdir())


def test_an_interrupted_conversion_leaves_nothing(
    converting: Converting, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = converting.original.fill

    def interrupted(index: int, out: Tensor, start: int = 0) -> None:
        if index == 3:
            raise KeyboardInterrupt
        fill(index, out, start)

    monkeypatch.setattr(converting.original, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converting.read()
    assert not list(converting.folder.iterdir())
