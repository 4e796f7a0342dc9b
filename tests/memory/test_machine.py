"""What of a GPU's memory a run may use: the smaller of what is free and a cap, each thing once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskora.memory.machine import CONTEXT, RESERVE, GpuMemory, budget, sold_as
from maskora.streaming.placement import GIB

gigabytes = st.floats(1, 100)


def memory(free: float, total: float, opened: bool = True) -> GpuMemory:
    return GpuMemory(round(free * GIB), round(total * GIB), opened)


def test_what_is_free_decides_and_is_told() -> None:
    found = budget(None, memory(7.1, 8.0))
    assert found.nbytes == pytest.approx(6.6 * GIB, abs=2)
    assert found.description == "7.1 of 8.0 GB are free, less 0.5 GB reserve"
    assert found.cap is None


def test_the_context_is_counted_once() -> None:
    """Opening the GPU takes the context out of what is free; the budget stays what it was."""
    before = budget(None, memory(7.5, 8.0, opened=False))
    after = budget(None, GpuMemory(round(7.5 * GIB) - CONTEXT, 8 * GIB, opened=True))
    assert before.nbytes == after.nbytes
    assert "and 0.4 GB for the CUDA context" in before.description
    assert "context" not in after.description


def test_a_cap_counts_all_of_a_run() -> None:
    found = budget(6, memory(7.1, 8.0))
    assert found.nbytes == 6 * GIB - RESERVE - CONTEXT
    assert found.description == (
        "cap 6 GB, as set, less 0.5 GB reserve and 0.4 GB for the CUDA context; "
        "7.1 of 8.0 GB are free"
    )


def test_a_cap_above_what_is_free_does_not_decide() -> None:
    free, capped = (budget(cap, memory(7.1, 8.0)) for cap in (None, 24))
    assert (capped.nbytes, capped.cap) == (free.nbytes, None)
    assert capped.description == f"{free.description}; the cap, 24 GB, would allow more"


@given(gigabytes, gigabytes, st.booleans())
def test_the_budget_is_the_smaller_of_the_two_and_fits_in_both(
    free: float, cap: float, opened: bool
) -> None:
    gpu = memory(free, free + 1, opened)
    least, capped = budget(None, gpu), budget(cap, gpu)
    alone = budget(cap, memory(10_000, 10_000))
    assert capped.nbytes == min(least.nbytes, alone.nbytes)
    assert 0 <= capped.nbytes <= gpu.free
    assert capped.steady >= 0
    assert capped.nbytes == 0 or capped.nbytes + RESERVE + CONTEXT <= cap * GIB + 1


@pytest.mark.parametrize(("sold", "free"), [(8, 7.1), (8, 7.4), (12, 11.0), (16, 14.8), (24, 23.1)])
def test_what_is_free_of_a_gpu_as_sold_is_near_what_people_report(sold: float, free: float) -> None:
    told = sold_as(sold)
    assert told.free / GIB == pytest.approx(free, rel=0.05)
    assert not told.opened
    assert budget(None, told).description.startswith(
        f"about {sold * 0.92:.1f} GB are free on a GPU sold"
    )
