"""How much of a GPU's memory a run may use: what is free, or a cap, less what goes to neither."""

from dataclasses import dataclass

from maskora.streaming.demand import GIB, gb

# The CUDA context, which the driver counts as ours as soon as the GPU is opened.
CONTEXT = 2 * GIB // 5
# The libraries' kernels and workspaces, which they allocate beside torch, and what other programs
# (a desktop above all) come to take while a run goes on.
RESERVE = GIB // 2
# A GPU that is sold with N GB and also serves a desktop has about so many of N * 2**30 bytes free:
# 7.1 and 7.4 of 8, 11.0 of 12, 14.8 of 16, 23.1 of 24.
FREE_OF_SOLD = 0.92
# Of a GPU's memory, what may be counted on however busy the desktop is at the moment.
STEADY = 0.87


@dataclass(frozen=True)
class GpuMemory:
    """A GPU's memory when a run starts, in bytes.

    Attributes:
        free: what no program holds.
        total: all of it.
        opened: our own context is out of `free` already.
        sold_gb: what a GPU that is not here is sold with.
    """

    free: int
    total: int
    opened: bool
    sold_gb: float | None = None

    @property
    def told(self) -> str:
        """ "7.1 of 8.0 GB are free"."""
        if self.sold_gb is None:
            return f"{gb(self.free)} of {gb(self.total)} GB are free"
        return (
            f"about {gb(self.free)} GB are free on a GPU sold as {self.sold_gb:g} GB with a desktop"
        )


@dataclass(frozen=True)
class Budget:
    """Bytes that every phase of a run must stay within, and why.

    Attributes:
        nbytes: for tensors, with what the allocator loses.
        overhead: what goes off the memory, or off the cap, beside that.
        steady: as `nbytes`, but of what may be counted on rather than of what happens to be free.
        told: in words.
        memory: the GPU's.
        cap: memory.vram_budget_gb in bytes, where it is what decides.
    """

    nbytes: int
    overhead: int
    steady: int
    told: str
    memory: GpuMemory
    cap: int | None = None


def sold_as(gigabytes: float) -> GpuMemory:
    """A GPU by what it is sold with, with what is usually free of it."""
    total = round(gigabytes * GIB)
    return GpuMemory(round(FREE_OF_SOLD * total), total, opened=False, sold_gb=gigabytes)


def budget(cap_gb: float | None, memory: GpuMemory) -> Budget:
    """The smaller of what is free and a cap, each less the reserve and the CUDA context.

    Args:
        cap_gb: what all of a run may take, the context included; None for no cap.
    """
    overhead = RESERVE if memory.opened else RESERVE + CONTEXT
    less = f", less {gb(RESERVE)} GB reserve"
    context = f" and {gb(CONTEXT)} GB for the CUDA context"
    free, steady = memory.free - overhead, round(STEADY * memory.total) - RESERVE - CONTEXT
    told, cap = f"{memory.told}{less}{'' if memory.opened else context}", None
    if cap_gb is not None:
        cap = round(cap_gb * GIB)
        most = cap - RESERVE - CONTEXT
        if most < free:
            told = f"cap {cap_gb:g} GB, as set{less}{context}; {memory.told}"
            free, overhead, steady = most, RESERVE + CONTEXT, min(most, steady)
        else:
            told += f"; the cap, {cap_gb:g} GB, would allow more"
            cap = None
    return Budget(max(0, free), overhead, max(0, steady), told, memory, cap)
