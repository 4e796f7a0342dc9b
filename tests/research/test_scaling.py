"""The simulation of many edits on many GPUs."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskora.config import build_config
from maskora.memory.machine import foreseen
from maskora.streaming.placement import GIB
from maskora.system import Ram
from research.scaling import (
    Cost,
    Fleet,
    Site,
    cost_of,
    draw_jobs,
    ideal,
    makespan,
    plans_of,
    table,
)
from tests.conftest import REPOSITORY

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


COST = Cost(seconds=1000.0, moved=0, read=10**10, cached=0, ram=30 * GIB)
SITE = Site(gpus=4, ram=100 * GIB, disk=10.0**8)


def test_the_table_has_a_line_per_fleet() -> None:
    jobs = draw_jobs(10, 60, 0.5, random.Random(0))
    assert all(30 <= seconds <= 90 for seconds in jobs)
    fast = replace(SITE, disk=1e12)
    rows = [line.split(" | ") for line in table([60.0] * 3, COST, fast, [Fleet(1), Fleet(4)], 0)]
    assert [row[-1] for row in rows[2:]] == ["100.0% |", "100.0% |"]


def test_without_ram_for_their_jobs_gpus_are_idle() -> None:
    assert [SITE.busy(gpus, COST) for gpus in (1, 3, 4, 6, 8)] == [1, 3, 3, 5, 6]
    assert [replace(SITE, ram=200 * GIB).busy(gpus, COST) for gpus in (1, 4, 6)] == [1, 4, 6]


def test_jobs_share_the_disk_once_they_want_all_of_it() -> None:
    """Each wants a tenth of it."""
    assert [SITE.slowdown(busy, COST) for busy in (1, 10, 15)] == [1.0, 1.0, 1.5]
    jobs, roomy = [1000.0] * 40, replace(SITE, ram=1000 * GIB)
    lines = table(jobs, COST, roomy, [Fleet(10), Fleet(20), Fleet(40)], seed=0)
    hours = [float(line.split(" | ")[2]) for line in lines[2:]]
    assert hours == [pytest.approx(4000 / 3600, abs=0.01)] * 3, "of any number ten are fed"


def test_a_plan_says_what_an_edit_costs() -> None:
    config = build_config({}, ["motion.steps=10", "inference.steps=5"])
    machine = replace(foreseen("cuda", 24), ram=Ram(512 * GIB, 512 * GIB))
    train, infer = plans_of(Path("configs/wan2.1-i2v-480p.toml"), config, machine)
    blocks = train.base.block_bytes("bfloat16", "same")
    one = cost_of(config, train, infer, segments=1, seconds=1.0)
    two = cost_of(config, train, infer, segments=2, seconds=1.0)
    swapped = infer.placement.blocks_to_swap
    assert two.moved - one.moved == 5 * swapped * blocks[0]
    assert two.read - one.read == pytest.approx(sum(blocks), rel=0.05)
    latents = train.base.latent_bytes(49, 832, 480)
    assert latents == 16 * 13 * 60 * 104 * 4
    assert two.cached - one.cached == 2 * latents
    mapped = [
        replace(plan, placement=replace(plan.placement, weights="mapped"))
        for plan in (train, infer)
    ]
    read = cost_of(config, *mapped, segments=1, seconds=1.0).read
    assert read == one.read + one.moved


def printed(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "research.scaling", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_documents_tell_what_the_command_prints() -> None:
    page = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python -m research\.scaling (.*)$", page, re.MULTILINE)
    costs, table = printed(*line.split()).stdout.strip().rsplit("\n\n", 1)
    assert costs.startswith("wan2.1-i2v")
    assert costs in page
    assert table.count("\n") == 8
    assert table in page


def test_minutes_that_nobody_has_measured_are_asked_for() -> None:
    result = printed("--vram", "24")
    assert result.returncode == 2
    assert "no step of this plan was measured on a GPU sold as 24 GB" in result.stderr
