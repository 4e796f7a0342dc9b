"""Host memory that is pinned or refused: what is asked of the driver, and what its failures leave.

No driver is here: one with a quota stands for it, and functions of torch's that would speak to it.
"""

import gc
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from maskora.streaming.host_memory import Driver, Pins, SharedBlocks, driver_of, host_buffer
from tests.streaming.drivers import Quota
from tests.system import posix_only

MB = 2**20


def buffers(count: int, nbytes: int = MB) -> list[Tensor]:
    return [host_buffer(nbytes) for _ in range(count)]


def test_memory_goes_to_the_system_and_its_pin_to_the_driver_with_the_last_view() -> None:
    driver = Quota(10 * MB)
    pins = Pins(driver)
    buffer = host_buffer(3 * MB)
    assert pins.urgent(buffer)
    view = buffer[MB:].view(torch.float32)
    del buffer
    gc.collect()
    assert (driver.left, pins.urgent_bytes) == (7 * MB, 3 * MB)
    del view
    gc.collect()
    assert (driver.left, pins.urgent_bytes) == (10 * MB, 0)


def test_what_is_spare_is_pinned_until_the_first_refusal() -> None:
    driver = Quota(2 * MB + MB // 2)
    pins = Pins(driver)
    all_of_them = buffers(4)
    assert [pins.spare(one) for one in all_of_them] == [True, True, False, False]
    assert not pins.spare(host_buffer(1000))
    assert len(driver.asked) == 3
    assert pins.refused == "out of memory"
    assert pins.left_out


@pytest.mark.parametrize(
    ("spares", "urgent", "left"), [(2, [MB // 2] * 3, 0), (4, [2 * MB + MB // 2], 1)]
)
def test_what_is_urgent_takes_the_place_of_what_is_spare(
    spares: int, urgent: list[int], left: int
) -> None:
    """Of several, where it needs them; without more than it needs."""
    pins = Pins(driver := Quota(spares * MB))
    spare = buffers(spares)
    assert all(pins.spare(one) for one in spare)

    def make_room() -> bool:
        if not spare:
            return False
        pins.release(spare.pop())
        return True

    pins.make_room = make_room
    wanted = [host_buffer(size) for size in urgent]
    assert [pins.urgent(one) for one in wanted] == [True] * len(urgent)
    assert all(driver.holds(one) for one in wanted)
    assert len(spare) == left
    assert pins.urgent_bytes == sum(urgent)
    assert driver.left == (spares - left) * MB - sum(urgent)


def test_without_anything_spare_a_refusal_is_final() -> None:
    driver = Quota(MB)
    pins = Pins(driver)
    given: list[int] = []
    pins.make_room = lambda: bool(given.append(1))
    assert [pins.urgent(one) for one in buffers(4, 2 * MB)] == [False] * 4
    assert len(driver.asked) == 1
    assert len(given) == 1
    assert pins.lacking_bytes == 8 * MB


def test_a_release_of_what_is_not_pinned_asks_nothing_of_the_driver() -> None:
    driver = Quota(MB)
    pins = Pins(driver)
    (one,) = buffers(1)
    pins.release(one)
    assert pins.urgent(one)
    pins.release(one)
    pins.release(one)
    assert driver.left == MB


def test_where_the_device_computes_in_host_memory_all_of_it_is_ready() -> None:
    assert driver_of(torch.device("cpu")) is None
    pins = Pins(None)
    assert all(pins.urgent(one) and pins.spare(one) for one in buffers(2))
    assert pins.lacking_bytes == 0
    assert not pins.left_out


def test_a_system_without_flags_gives_pages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    monkeypatch.delattr(mmap, "MAP_ANONYMOUS")
    buffer = host_buffer(5000)
    assert buffer.shape == (5000,)
    assert not buffer.any()
    assert buffer.data_ptr() % 4096 == 0


class Runtime:
    """CUDA's runtime as torch shows it: a failed call is remembered, and may also come up late.

    Attributes:
        said: what happened, in order.
        remembered: the failure that the next kernel would be blamed for.
        late: the failure that the next wait would tell.
    """

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.pinned: dict[int, int] = {}
        self.current = 0
        self.said: list[tuple[str, int]] = []
        self.remembered = self.late = False

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        self.said.append(("register", self.current))
        if nbytes > self.quota - sum(self.pinned.values()):
            self.remembered = self.late = True
            return 2
        self.pinned[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self.said.append(("unregister", self.current))
        if self.pinned.pop(address, None) is None:
            self.remembered = True
            return 713
        return 0

    def cudaGetErrorString(self, status: int) -> str:
        return {2: "out of memory", 713: "not registered"}[status]

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def zeros(self, *shape: int, device: torch.device) -> Tensor:
        self.said.append(("kernel", device.index))
        if self.remembered:
            self.remembered = False
            raise torch.AcceleratorError("CUDA error: out of memory")
        return torch.ones(shape)

    def synchronize(self, device: torch.device) -> None:
        self.said.append(("wait", device.index))
        if self.late:
            self.late = False
            raise torch.AcceleratorError("CUDA error: out of memory, told late")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A GPU number 1 beside another, with room for one MB."""
    stub = Runtime(MB)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: stub)
    monkeypatch.setattr(torch.cuda, "device", stub.device)
    monkeypatch.setattr(torch.cuda, "synchronize", stub.synchronize)
    monkeypatch.setattr(torch, "zeros", stub.zeros)
    return stub


def test_memory_is_pinned_for_the_gpu_that_computes(runtime: Runtime) -> None:
    pins = Pins(driver_of(torch.device("cuda", 1)))
    (buffer,) = buffers(1)
    assert pins.urgent(buffer)
    assert runtime.pinned == {buffer.data_ptr(): MB}
    pins.release(buffer)
    assert runtime.pinned == {}
    assert runtime.said == [("register", 1), ("wait", 1), ("unregister", 1)]
    assert runtime.current == 0


def test_a_refusal_leaves_nothing_that_later_work_is_blamed_for(runtime: Runtime) -> None:
    driver = Driver(torch.device("cuda", 1))
    (buffer,) = buffers(1, 2 * MB)
    assert driver.register(buffer.data_ptr(), buffer.nbytes) == "out of memory"
    assert not runtime.remembered
    assert not runtime.late
    assert runtime.said == [("register", 1), ("kernel", 1), ("wait", 1)]


def test_an_address_that_is_not_pinned_leaves_nothing_either(runtime: Runtime) -> None:
    Driver(torch.device("cuda", 1)).unregister(4096)
    assert not runtime.remembered


def test_a_full_gpu_does_not_make_a_refusal_an_error(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    (buffer,) = buffers(1, 2 * MB)
    driver = Driver(torch.device("cuda", 1))
    assert driver.register(buffer.data_ptr(), buffer.nbytes) == "out of memory"


@pytest.mark.parametrize("place", ["zeros", "synchronize"])
def test_another_failure_is_not_taken_for_the_refusal(
    runtime: Runtime, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("something else")

    owner: Any = torch if place == "zeros" else torch.cuda
    monkeypatch.setattr(owner, place, broken)
    (buffer,) = buffers(1, 2 * MB)
    with pytest.raises(RuntimeError, match="something else"):
        Driver(torch.device("cuda", 1)).register(buffer.data_ptr(), buffer.nbytes)


@pytest.mark.parametrize("quota", [0, MB])
def test_a_single_buffer_asks_the_driver_where_a_gpu_is_there(
    runtime: Runtime, quota: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.quota = quota
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    buffer = host_buffer(MB, pin=True)
    assert list(runtime.pinned) == ([buffer.data_ptr()] if quota else [])
    del buffer
    gc.collect()
    assert runtime.pinned == {}


@posix_only
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory has files on Linux alone")
def test_blocks_in_a_shared_file_are_filled_once_and_seen_by_all() -> None:
    file = os.memfd_create("test")
    other = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    sizes = [5000, 100, 4096]
    one, two = SharedBlocks(file, sizes), SharedBlocks(other, sizes)
    filled: list[int] = []

    def fill(number: int, out: Tensor) -> None:
        filled.append(number)
        out.fill_(number)

    first = [one.block(n, lambda out, n=n: fill(n + 1, out)) for n in (0, 2)]
    second = [two.block(n, lambda out, n=n: fill(n + 11, out)) for n in (2, 1, 0)]
    os.close(file)
    os.close(other)
    assert filled == [1, 3, 12]
    assert [len(buffer) for buffer in second] == [4096, 100, 5000]
    assert torch.equal(first[1], second[0])
    assert torch.equal(first[0], second[2])
    assert set(second[1].tolist()) == {12}
    assert all(buffer.data_ptr() % mmap.PAGESIZE == 0 for buffer in second)
    first[0][7] = 99
    assert second[2][7] == 99
