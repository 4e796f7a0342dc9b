"""Blocks in one file on disk, in the form in which they are used: a safetensors file of bytes."""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from maskora.errors import Fault
from maskora.files import digest, replacing
from maskora.streaming.blocks import Block
from maskora.streaming.checkpoint import byte_view, read_bytes
from maskora.streaming.layout import ALIGNMENT
from maskora.streaming.memory import Pins, host_buffer
from maskora.streaming.sources import BlockSource

log = logging.getLogger("maskora")
# Part of a file's name: files of another form have another name.
FORMAT = "1"
ABANDONED_SECONDS = 3600


class FileBlocks:
    """Each block is one piece of the file."""

    def __init__(self, path: Path, blocks: Sequence[Block]) -> None:
        self._path, self._offsets = path, []
        end = len(_head(blocks))
        for block in blocks:
            self._offsets.append(end)
            end += block.layout.nbytes

    def fill(self, index: int, out: Tensor, start: int = 0) -> None:
        """See `BlockSource`."""
        read_bytes(self._path, self._offsets[index] + start, out)

    def pinned(self, index: int) -> None:
        """Nothing lies ready."""
        return None

    def pin(self, pins: Pins) -> None:
        """Nothing waits in memory."""

    def unpin(self, pins: Pins) -> bool:
        """Nothing waits in memory."""
        return False

    def take(self, index: int, buffer: Tensor) -> None:
        """See `BlockSource`: the file holds every block."""


def convert(path: Path, source: BlockSource, blocks: Sequence[Block]) -> FileBlocks:
    """The blocks from a file that is there, or is written now if it is not or is not whole.

    Raises:
        Fault: the disk has too little room for it, or the place cannot be written to.
    """
    if not _is_whole(path, blocks):
        if path.exists():
            log.warning("note: %s is damaged and is written again", path)
        log.info("writing the weights as they are used to %s", path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(path.parent)
            _check_room(path, sum(block.layout.nbytes for block in blocks))
            _write(path, source, blocks)
        except OSError as error:
            raise Fault(
                f"the converted copy of the weights could not be written to {path} "
                f"({error.strerror}): name another place with XDG_CACHE_HOME, or set "
                f'memory.weights = "pageable"'
            ) from None
    return FileBlocks(path, blocks)


def _head(blocks: Sequence[Block]) -> bytes:
    """The file's beginning: the header, which tells the layout of every block, with its length."""
    header: dict[str, object] = {
        "__metadata__": {"layout": digest(*(repr(block.layout) for block in blocks))}
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
    head = _head(blocks)
    if not path.is_file():
        return False
    if path.stat().st_size != len(head) + sum(block.layout.nbytes for block in blocks):
        return False
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Fault(
            f'memory.weights = "mapped" keeps a converted copy of the weights at {path}, which '
            f"takes {size / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free there: make room, "
            f"name another place with XDG_CACHE_HOME, or use pageable"
        )


def _clear_abandoned(folder: Path) -> None:
    """Remove what a killed conversion has left; one that runs has written to its file just now."""
    for part in folder.glob(".part-*"):
        if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
            part.unlink(missing_ok=True)


def _write(path: Path, source: BlockSource, blocks: Sequence[Block]) -> None:
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(_head(blocks))
        for index, block in enumerate(blocks):
            buffer = host_buffer(block.layout.nbytes, pin=False)
            source.fill(index, buffer)
            file.write(byte_view(buffer))
