"""The simulation of many edits on many GPUs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.scaling import Fleet, draw_jobs, ideal, makespan, table

SECONDS = st.lists(st.floats(1, 1000), min_size=1, max_size=30)


@pytest.mark.parametrize(("jobs", "gpus", "rounds"), [(12, 4, 3), (13, 4, 4), (3, 8, 1)])
def test_equal_jobs_without_failures_take_whole_rounds(jobs: int, gpus: int, rounds: int) -> None:
    assert makespan([60.0] * jobs, Fleet(gpus), random.Random(0)) == 60 * rounds
    late = Fleet(gpus, overhead=5)
    assert makespan([60.0] * jobs, late, random.Random(0)) == 65 * rounds


@given(SECONDS, st.integers(1, 8))
def test_a_queue_is_never_better_than_the_ideal_nor_twice_as_long(
    jobs: list[float], gpus: int
) -> None:
    took, best = makespan(jobs, Fleet(gpus), random.Random(0)), ideal(jobs, gpus)
    assert best * (1 - 1e-9) <= took <= 2 * best * (1 + 1e-9)  # Graham 1966


@given(SECONDS, st.integers(1, 8), st.integers(0, 99))
def test_every_job_is_done_in_spite_of_failures(jobs: list[float], gpus: int, seed: int) -> None:
    fleet = Fleet(gpus, failures=1 / 2000, repair=100, checkpoint=10)
    took = makespan(jobs, fleet, random.Random(seed))
    assert took >= ideal(jobs, gpus) * (1 - 1e-9)
    assert took == makespan(jobs, fleet, random.Random(seed))


def test_failures_cost_what_was_done_since_the_checkpoint_and_the_repair() -> None:
    class Once(random.Random):
        """Fails once, after 25 seconds."""

        times = iter((25.0, 1e9, 1e9))

        def expovariate(self, lambd: float = 1.0) -> float:
            return next(self.times)

    fleet = Fleet(1, failures=1, repair=100, checkpoint=10, overhead=3)
    # 22 of 60 seconds are worked, 20 of them kept; then the repair, and 40 are left.
    assert makespan([60.0], fleet, Once()) == 25 + 100 + 3 + 40


def test_the_table_has_a_line_per_fleet() -> None:
    jobs = draw_jobs(10, 60, 0.5, random.Random(0))
    assert all(30 <= seconds <= 90 for seconds in jobs)
    lines = table([60.0] * 8, [Fleet(1), Fleet(8)], seed=0)
    assert [line.split()[-1] for line in lines[1:]] == ["100.0%", "100.0%"]
