"""What is measured is what was used."""

import mmap
import re
import time
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.measure import (
    HostPeak,
    Phase,
    describe_machine,
    high_water_mark,
    host_memory,
    limit_gpu,
    measured,
    usable_cores,
)

MIB = 2**20
CPU = torch.device("cpu")


def test_the_host_peak_sees_memory_that_is_gone_at_the_end() -> None:
    before = host_memory()
    with HostPeak() as peak:
        held = torch.ones(200 * MIB, dtype=torch.uint8)
        time.sleep(0.05)
        del held
    assert host_memory() - before < 50 * MIB
    assert 190 * MIB < peak.bytes - before < 250 * MIB
    assert high_water_mark() >= peak.bytes - 16 * MIB


def test_shared_pages_count_and_cached_files_do_not(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(100 * MIB))
    before = host_memory()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert sum(pages[::4096]) == 0
        assert host_memory() - before < 30 * MIB
    shared = mmap.mmap(-1, 100 * MIB)
    shared.write(bytes(100 * MIB))
    assert host_memory() - before > 90 * MIB


def test_systems_without_proc_are_asked_in_their_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "STATUS", tmp_path / "status")
    before = host_memory()
    held = torch.ones(200 * MIB, dtype=torch.uint8)
    assert 190 * MIB < host_memory() - before < 250 * MIB
    assert high_water_mark() >= before + 190 * MIB
    del held


def test_a_phase_is_reported_even_when_it_fails() -> None:
    phases: list[Phase] = []

    def fail() -> None:
        with measured("load", CPU, phases.append):
            time.sleep(0.05)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    (phase,) = phases
    assert phase.name == "load"
    assert 0.05 <= phase.seconds < 5
    assert phase.peak_allocated is None
    assert phase.peak_host > 50 * MIB


def test_a_machine_without_a_gpu_says_so() -> None:
    machine = describe_machine(CPU)
    assert machine.gpu == "no GPU"
    assert (machine.gpu_bytes, machine.cuda) == (None, None)
    assert (machine.bandwidth, machine.staged_bandwidth) == (None, None)
    assert machine.cores == usable_cores() >= 1
    assert machine.ram_bytes > 2**30
    assert re.match(r"\d+\.\d+", machine.torch)


@pytest.mark.parametrize(
    ("device", "index"), [(torch.device("cuda"), 1), (torch.device("cuda:0"), 0)], ids=str
)
def test_a_cap_reaches_the_allocator_of_the_gpu_that_is_meant(
    device: torch.device, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own argument checks run; only what would call the driver is replaced."""
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (21 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * 2**30)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda *given: told.append(given), raising=False
    )
    limit_gpu(8.0, device)
    assert told == [(pytest.approx(7 / 24), index)]  # 1 GB is the context's
