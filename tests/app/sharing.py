"""One of two processes that hold blocks together; run by a launcher.

Given the blocks' size in MB, it makes blocks; given a tiny base's folder, it loads that twice, with
all blocks waiting. Prints how often a block was filled, what of the memory of both is the shared
file's, in bytes, each page divided by how many map it, and how much it should be.
"""

import mmap
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskora import ranks
from maskora.app.together import blocks_held_once
from maskora.models.registry import open_model
from maskora.ranks import Ranks
from maskora.streaming.host_memory import SharedBlocks
from maskora.streaming.placement import Placement
from maskora.streaming.sources import CheckpointBlocks

COUNT = 4


def proportional(name: str) -> int:
    """Bytes of the mappings of a file, shared pages counted in part (smaps' Pss)."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    heads = [n for n, line in enumerate(lines) if "-" in line.split()[0]]
    total = 0
    for start, end in pairwise([*heads, len(lines)]):
        if name in lines[start]:
            total += sum(int(x.split()[1]) * 1024 for x in lines[start:end] if x.startswith("Pss:"))
    return total


def report(together: Ranks, filled: int, expected: int) -> None:
    """Print what both have, once all is mapped."""
    together.gathered(None)
    counts = together.gathered((filled, proportional("memfd:maskora")))
    if together.rank == 0:
        fills, held = (sum(values) for values in zip(*counts, strict=True))
        print("FILLED", fills, "PSS", held, "EXPECTED", expected)


def share_made(together: Ranks, nbytes: int) -> None:
    """Blocks of so many bytes together."""
    size, filled = nbytes // COUNT, list[int]()

    def fill(out: Tensor) -> None:
        filled.append(together.rank)
        out.fill_(7)

    file = together.shared_file()
    assert file is not None
    shared = SharedBlocks(file, [size] * COUNT)
    blocks = [shared.block(number, fill) for number in range(COUNT)]
    os.close(file)
    assert all(int(block.sum(dtype=torch.int64)) == 7 * size for block in blocks)
    report(together, len(filled), nbytes)


def share_loaded(together: Ranks, folder: Path) -> None:
    """The blocks of a base's transformer, as inference loads it."""
    filled, fill = list[int](), CheckpointBlocks.fill

    def counted(self: CheckpointBlocks, index: int, *rest: Any) -> None:
        filled.append(index)
        fill(self, index, *rest)

    CheckpointBlocks.fill = counted  # type: ignore[method-assign]
    model = open_model("wan2.1-i2v", folder, "float32", "cpu", Placement(1000, "pageable"))
    with blocks_held_once(model):
        for _ in range(1 + together.rank):  # each as often as it needs
            model.load_transformer().streamed.close()
        transformer = model.load_transformer()
        streamer = transformer.streamed.streamer
        blocks = streamer.blocks
        for index, block in enumerate(blocks):  # what is not read is no memory of this process
            streamer._source.fill(index, torch.empty(block.layout.nbytes, dtype=torch.uint8))
        sizes = [-(-block.layout.nbytes // mmap.PAGESIZE) for block in blocks]
        report(together, len(filled), mmap.PAGESIZE * (1 + sum(sizes)))
        transformer.streamed.close()


def main() -> None:
    place = ranks.launched()
    assert place is not None
    together, what = ranks.join(place, "cpu", {}), sys.argv[1]
    if what.isdecimal():
        share_made(together, int(what) * 2**20)
    else:
        share_loaded(together, Path(what))
    ranks.leave()


if __name__ == "__main__":
    main()
