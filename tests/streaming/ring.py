"""Small blocks that pass through a ring, driven as a transformer drives them."""

import torch
from torch import Tensor, nn

from maskora.errors import Fault
from maskora.streaming.blocks import Block, precise
from maskora.streaming.engine import Streamer
from maskora.streaming.placement import spread
from maskora.streaming.recompute import ActivationOffload, Recomputation
from maskora.streaming.sources import BlockSource
from maskora.streaming.transfer import HostToDevice

CPU = torch.device("cpu")
WIDTH = 8


class Memory(BlockSource):
    """Stored blocks in ordinary memory, direct or through staging, which may fail."""

    def __init__(self, count: int, nbytes: int, direct: bool) -> None:
        numbers = torch.Generator().manual_seed(0)
        self.buffers = [
            torch.randn(nbytes // 4, generator=numbers).view(torch.uint8) for _ in range(count)
        ]
        self.direct, self.broken = direct, False

    def fill(self, index: int, out: Tensor, start: int = 0) -> None:
        if self.broken:
            raise Fault("the disk is gone")
        out.copy_(self.buffers[index][start : start + len(out)])

    def pinned(self, index: int) -> Tensor | None:
        return self.buffers[index] if self.direct else None

    def take(self, index: int, buffer: Tensor) -> None:
        assert torch.equal(buffer, self.buffers[index])


class Model:
    """Linear blocks one after another, driven as a transformer drives them."""

    def __init__(
        self,
        count: int,
        swapped: int,
        ring: int,
        direct: bool,
        kind: type[nn.Linear] = nn.Linear,
        transfer: type[HostToDevice] = HostToDevice,
    ) -> None:
        modules = [kind(WIDTH, WIDTH, device="meta") for _ in range(count)]
        precision = precise(torch.float32)
        blocks = [Block(m, f"{i}.", "same", precision, CPU) for i, m in enumerate(modules)]
        self.size = blocks[0].layout.nbytes
        self.memory = Memory(count, self.size, direct)
        self.streamed = spread(count, swapped)
        for index in range(count):
            if index not in self.streamed:
                blocks[index].bind(self.memory.buffers[index].clone())
        self.streamer = Streamer(blocks, self.memory, self.streamed, ring, CPU)
        self.offload = ActivationOffload(transfer(CPU), transfer(CPU), enabled=True)
        self.checkpoint = Recomputation(self.streamer, self.offload)
        self.modules = modules
        self._loads: list[int] = []
        load = self.streamer._load

        def noted(index: int, wanted: list[int]) -> None:
            self._loads.append(index)
            load(index, wanted)

        self.streamer._load = noted  # type: ignore[method-assign]

    def infer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for index, module in enumerate(self.modules):
                with self.streamer.visit(index, "generate"):
                    x = module(x)
        return x

    def train(self, x: Tensor, *shared: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = x
        for module in self.modules:
            y = self.checkpoint(module, y, *shared)
        y.square().sum().backward()
        assert x.grad is not None
        return x.grad

    def loads(self) -> list[int]:
        """What was loaded since the last look."""
        loads, self._loads = self._loads, []
        return loads
