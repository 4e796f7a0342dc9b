"""Blocks in their stored form: read from a checkpoint, kept in host memory, or in one file on disk.

The file is a safetensors file of bytes, which holds the blocks as they are used.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.files import digest, remove_abandoned, replacing
from maskora.progress import track
from maskora.streaming.blocks import ALIGNMENT, Block, Slice, Weight
from maskora.streaming.header import read_metadata
from maskora.streaming.host_memory import Pins, SharedBlocks, host_buffer
from maskora.streaming.tensor_files import READ_BYTES, READERS, Reader, byte_view, read_bytes

log = logging.getLogger("maskora")
# Part of a converted file's name: files of another form have another name.
FORMAT = "1"
DIGESTS, DIGEST_LENGTH = "sha256", 64  # of the blocks, in the file's metadata


class BlockSource:
    """Blocks in their stored form. By itself it holds none in memory, and so none to pin."""

    def fill(self, index: int, out: Tensor, start: int = 0) -> None:
        """Write a block's bytes, laid out, from `start` on into a uint8 CPU buffer.

        Args:
            start: on a border of the layout (`ALIGNMENT`).
        """
        raise NotImplementedError

    def pinned(self, index: int) -> Tensor | None:
        """The block's bytes where the device can copy them by itself; None where it cannot."""
        return None

    def pin(self, pins: Pins) -> None:
        """Pin what waits in memory, as much as there is room for."""

    def unpin(self, pins: Pins) -> bool:
        """Unpin one block for something more urgent. False where none is pinned."""
        return False

    def take(self, index: int, buffer: Tensor) -> None:
        """From now on `fill` is asked for this block, too, which lies in a buffer of the device."""


class CheckpointBlocks(BlockSource):
    """Blocks read tensor by tensor and converted on the way; holds nothing itself."""

    def __init__(self, reader: Reader, blocks: Sequence[Block], device: torch.device) -> None:
        """`device` is where weights are compressed, one at a time."""
        self._reader, self._blocks, self._device = reader, blocks, device

    def fill(self, index: int, out: Tensor, start: int = 0) -> None:
        """What is compressed is so whole, even for a part of it."""
        for weight in self._blocks[index].weights:
            shares = [_share(place, out, start) for place in weight.slices]
            if not any(len(part) for part, _ in shares):
                continue
            if weight.format is None:
                ((part, first),) = shares
                self._reader.read_span(weight.name, first, part)
                continue
            for (part, first), one in zip(shares, self._encoded(weight), strict=True):
                part.copy_(one.reshape(-1)[first : first + len(part)])

    def _encoded(self, weight: Weight) -> list[Tensor]:
        """Its parts in the order of its slices."""
        assert weight.format is not None
        dense = torch.empty(weight.shape, dtype=weight.dtype)
        self._reader.read_into(weight.name, dense)
        try:
            return list(weight.format.encode(dense.to(self._device)))
        except Fault as error:
            raise Fault(f"{weight.name}: {error}") from None


def _share(place: Slice, out: Tensor, start: int) -> tuple[Tensor, int]:
    """A span's part that belongs to a tensor, as its values, and which of them comes first."""
    first = max(place.offset, start)
    end = max(first, min(place.offset + place.nbytes, start + len(out)))
    part = out[first - start : end - start].view(place.dtype)
    return part, (first - place.offset) // place.dtype.itemsize


class HostBlocks(BlockSource):
    """Blocks in host memory, each in a buffer of exactly its size."""

    def __init__(
        self,
        source: BlockSource,
        blocks: Sequence[Block],
        indices: Iterable[int],
        pin: bool,
        file: int | None = None,
    ) -> None:
        """Copy the chosen blocks from a source, one after another.

        Args:
            pin: they are to be pinned, once what is more urgent is.
            file: of the memory that they are held in together with other processes.
        """
        sizes = [block.layout.nbytes for block in blocks]
        shared = None if file is None else SharedBlocks(file, sizes)
        self._pin = pin
        self._buffers: dict[int, Tensor] = {}
        self._pinned: list[int] = []  # in the order of pinning
        for index in indices:
            if shared is None:
                self._buffers[index] = read_block(source, index, blocks[index])
            else:
                self._buffers[index] = shared.block(index, partial(source.fill, index))

    def fill(self, index: int, out: Tensor, start: int = 0) -> None:
        out.copy_(self._buffers[index][start : start + len(out)])

    def pinned(self, index: int) -> Tensor | None:
        return self._buffers[index] if index in self._pinned else None

    def pin(self, pins: Pins) -> None:
        """Those of the middle go first: training loads them twice per step."""
        if not self._pin:
            return
        order = sorted(self._buffers)
        middle = (len(order) - 1) / 2
        for place in sorted(range(len(order)), key=lambda place: abs(place - middle)):
            index = order[place]
            if index not in self._pinned:
                if not pins.spare(self._buffers[index]):
                    return
                self._pinned.append(index)

    def unpin(self, pins: Pins) -> bool:
        if not self._pinned:
            return False
        pins.release(self._buffers[self._pinned.pop()])
        return True

    def take(self, index: int, buffer: Tensor) -> None:
        held = host_buffer(buffer.numel())
        held.copy_(buffer)
        self._buffers[index] = held


class FileBlocks(BlockSource):
    """Each block is one piece of the file."""

    def __init__(self, path: Path, blocks: Sequence[Block]) -> None:
        self._path, self._offsets = path, []
        end = path.stat().st_size - sum(block.layout.nbytes for block in blocks)
        for block in blocks:
            self._offsets.append(end)
            end += block.layout.nbytes

    def fill(self, index: int, out: Tensor, start: int = 0) -> None:
        read_bytes(self._path, self._offsets[index] + start, out)


def read_block(source: BlockSource, index: int, block: Block) -> Tensor:
    """A whole block from a source, in host memory of its own."""
    buffer = host_buffer(block.layout.nbytes)
    source.fill(index, buffer)
    return buffer


def convert(path: Path, source: BlockSource, blocks: Sequence[Block]) -> FileBlocks:
    """The blocks from a file that is there, or is written now if it is not or is not whole.

    Its content is compared with its digests here, once in a process: it is read once for that. Two
    processes that want the same file write it once: the second waits for the first.

    Raises:
        Fault: the disk has too little room for it, or the place cannot be written to.
    """
    if not _is_whole(path, blocks):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _writing_alone(path):
                _write_where_needed(path, source, blocks)
        except OSError as error:
            raise Fault(
                f"the converted copy of the weights could not be written to {path} "
                f"({error.strerror}): name another place with XDG_CACHE_HOME, or set "
                f'memory.weights = "pageable"'
            ) from None
    return FileBlocks(path, blocks)


@contextmanager
def _writing_alone(path: Path) -> Iterator[None]:
    place = path.with_suffix(".lock")
    lock = FileLock(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("another maskora is writing %s: it is waited for", path)
        lock.acquire()
    try:
        yield
    finally:
        # Who waits for a lock that is gone makes another. Windows removes no open file: there the
        # lock goes by itself.
        with suppress(PermissionError):
            place.unlink()
        lock.release()


def _write_where_needed(path: Path, source: BlockSource, blocks: Sequence[Block]) -> None:
    if path.exists():
        if _is_whole(path, blocks):  # another process was faster
            return
        log.warning("note: %s is damaged and is written again", path)
    log.info("writing the weights as they are used to %s", path)
    remove_abandoned(path.parent)
    _check_room(path, sum(block.layout.nbytes for block in blocks))
    _write(path, source, blocks)


def _head(blocks: Sequence[Block], digests: Sequence[str] = ()) -> bytes:
    """The file's beginning: the header, which tells the layout of every block, with its length.

    Args:
        digests: of the blocks; files of earlier versions have none.
    """
    noted = {"layout": digest(*(repr(block.layout) for block in blocks))}
    header: dict[str, object] = {
        "__metadata__": {**noted, **({DIGESTS: " ".join(digests)} if digests else {})}
    }
    end = 0
    for index, block in enumerate(blocks):
        size = block.layout.nbytes
        entry = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        header[str(index)], end = entry, end + size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _is_whole(path: Path, blocks: Sequence[Block]) -> bool:
    """Whether a file is there, of these blocks, and what was written."""
    if not path.is_file():
        return False
    try:
        digests = read_metadata(path).get(DIGESTS, "").split()
    except UserError:
        return False
    head = _head(blocks, digests)
    if len(digests) not in (0, len(blocks)):
        return False
    if path.stat().st_size != len(head) + sum(block.layout.nbytes for block in blocks):
        return False
    with path.open("rb") as file:
        if file.read(len(head)) != head:
            return False
    sizes = [block.layout.nbytes for block in blocks]
    return _are(digests, path, [*zip(accumulate(sizes, initial=len(head)), sizes, strict=False)])


def _are(digests: Sequence[str], path: Path, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether spans (start, length) of a file have these digests; without any, nothing is read."""
    pool = ThreadPoolExecutor(READERS)  # hashing lets other threads run
    try:
        found = pool.map(lambda span: _digest_span(path, *span), spans[: len(digests)])
        shown = track(found, "check the converted weights", len(digests), "block", brief=True)
        return all(one == other for one, other in zip(shown, digests, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _digest_span(path: Path, start: int, length: int) -> str:
    total = sha256()
    buffer = bytearray(min(length, READ_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while length:
            count = file.readinto(memoryview(buffer)[: min(length, len(buffer))])
            if not count:
                return ""  # it was cut short just now
            total.update(memoryview(buffer)[:count])
            length -= count
    return total.hexdigest()


def _check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Fault(
            f'memory.weights = "mapped" keeps a converted copy of the weights at {path}, which '
            f"takes {size / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free there: make room, "
            f"name another place with XDG_CACHE_HOME, or use pageable"
        )


def _write(path: Path, source: BlockSource, blocks: Sequence[Block]) -> None:
    """The header comes last: its digests, whose length is known, are those of what was written."""
    digests = ["0" * DIGEST_LENGTH] * len(blocks)
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(_head(blocks, digests))
        for index, block in enumerate(blocks):
            content = byte_view(read_block(source, index, block))
            digests[index] = sha256(content).hexdigest()
            file.write(content)
        file.seek(0)
        file.write(_head(blocks, digests))
