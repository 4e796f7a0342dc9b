"""One of two processes that hold blocks together; run by a launcher, with the blocks' size in MB.

Prints what of its memory is the shared file's, in bytes, each page divided by how many map it.
"""

import os
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from maskora import ranks
from maskora.streaming.host_memory import SharedBlocks

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


def main() -> None:
    place = ranks.launched()
    assert place is not None
    together = ranks.join(place, "cpu", {})
    size = int(sys.argv[1]) * 2**20 // COUNT
    filled: list[int] = []

    def fill(out: Tensor) -> None:
        filled.append(place.rank)
        out.fill_(7)

    file = together.shared_file()
    assert file is not None
    shared = SharedBlocks(file, [size] * COUNT)
    blocks = [shared.block(number, fill) for number in range(COUNT)]
    os.close(file)
    assert all(int(block.sum(dtype=torch.int64)) == 7 * size for block in blocks)
    together.gathered(None)  # all have mapped all
    counts = together.gathered((len(filled), proportional("memfd:maskora")))
    if place.rank == 0:
        print("FILLED", sum(count for count, _ in counts), "PSS", sum(pss for _, pss in counts))
    ranks.leave()


if __name__ == "__main__":
    main()
