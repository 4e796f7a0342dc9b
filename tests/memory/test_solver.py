"""The solver: within the budget, at the least cost of time, or a refusal that says what fits."""

import re
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from maskora.memory.machine import CONTEXT, RESERVE, Budget, GpuMemory, budget
from maskora.memory.solver import (
    RINGS,
    BlockPhase,
    Change,
    ComputeMode,
    Demand,
    Need,
    Solution,
    Swap,
    TilePhase,
    refuse,
    smallest,
    solve,
)
from maskora.streaming.placement import GIB, RESIDENT, Placement

MIB = 2**20
LAYER, SPLIT = {"recompute": "layer"}, {"split_batch": True}


def training(
    blocks: int = 10, block: int = 100, whole: int = 2000, layer: int = 1000, free: bool = False
) -> BlockPhase:
    """A phase over blocks, sizes in MiB; its second mode takes less memory."""
    return BlockPhase(
        name="train",
        block_bytes=(block * MIB,) * blocks,
        others=50 * MIB,
        adapter=20 * MIB,
        inputs=30 * MIB,
        modes=(
            ComputeMode(whole * MIB),
            ComputeMode(layer * MIB, SPLIT if free else LAYER, "in turn"),
        ),
        free=free,
        backward=not free,
    )


def on_gpu(nbytes: int) -> Budget:
    """A budget of so many bytes on a GPU that would have more."""
    cap = (nbytes + RESERVE + CONTEXT) / GIB
    return budget(cap, GpuMemory(100 * GIB, 101 * GIB, opened=True))


sizes = st.integers(0, 5000)
phases = st.builds(
    training,
    blocks=st.integers(1, 45),
    block=st.integers(1, 800),
    whole=st.integers(1000, 6000),
    layer=st.integers(0, 1000),
    free=st.booleans(),
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """A phase over blocks beside a tiled and a fixed one."""
    whole, half, quarter = sorted(draw(st.tuples(sizes, sizes, sizes)), reverse=True)
    tiles = {None: whole * MIB, 512: half * MIB, 128: quarter * MIB}
    return Demand(
        blocks=draw(phases),
        tiles=(TilePhase("encode", 500 * MIB, tiles),),
        fixed={"text": Need(ring=draw(sizes) * MIB)},
    )


budgets = st.integers(700, 50_000).map(lambda mib: mib * MIB)


def solved(
    demand: Demand, budget: int, swap: Swap = "auto", base: Placement = RESIDENT, **more: Any
) -> Solution:
    """What fits, where something does."""
    solution = solve(demand, budget, swap, base, **more)
    assert solution is not None
    return solution


def possible(demand: Demand, budget: int, **more: Any) -> Solution:
    """The same of an example, which is passed over where nothing fits."""
    assume(solve(demand, budget, "auto", RESIDENT) is not None)
    return solved(demand, budget, **more)


@given(demands(), budgets)
def test_a_solution_stays_within_the_budget_in_every_phase(demand: Demand, budget: int) -> None:
    solution = possible(demand, budget)
    assert set(solution.needs) == {"train", "encode", "text"}
    assert all(need.total <= budget for need in solution.needs.values())


@given(demands(), budgets)
def test_as_few_blocks_are_swapped_as_fit(demand: Demand, budget: int) -> None:
    solution = possible(demand, budget)
    phase, chosen = demand.blocks, solution.placement
    (mode,) = [w for w in phase.modes if all(getattr(chosen, k) == v for k, v in w.settings.items())
              and w.activations == solution.needs["train"].activations][:1]  # fmt: skip
    fewer = [k for k in phase.counts("auto", chosen.ring) if k < chosen.blocks_to_swap]
    assert all(phase.need(k, chosen.ring, mode).total > budget for k in fewer)
    assert chosen.blocks_to_swap not in range(1, chosen.ring + 1)


@given(demands(), budgets)
def test_nothing_that_fits_moves_less_nor_as_much_through_a_longer_ring(
    demand: Demand, budget: int
) -> None:
    solution = possible(demand, budget)
    phase, chosen = demand.blocks, solution.placement
    faster = [w for w in phase.modes if w.activations >= solution.needs["train"].activations]
    costs = [
        (phase.moved(k, ring), -ring)
        for ring in RINGS
        for k in phase.counts("auto", ring)
        for mode in (phase.modes if phase.free else faster)
        if phase.need(k, ring, mode).total <= budget and (k > ring or ring == 2)
    ]
    assert (phase.moved(chosen.blocks_to_swap, chosen.ring), -chosen.ring) == min(costs)


def test_a_longer_ring_costs_no_loads_in_training_and_some_in_inference() -> None:
    train, infer = (replace(training(blocks=40), backward=mode) for mode in (True, False))
    assert train.moved(38, 2) == train.moved(39, 3) == train.moved(40, 4) == 72 * 100 * MIB
    mode = train.modes[0]
    needs = {train.need(k, ring, mode).total for k, ring in ((38, 2), (39, 3), (40, 4))}
    assert len(needs) == 1
    assert (infer.moved(38, 2), infer.moved(40, 4)) == (3800 * MIB, 4000 * MIB)
    assert train.moved(2, 2) == infer.moved(4, 4) == 0
    (least,) = needs
    for phase, expected in ((train, (40, 4)), (infer, (38, 2))):
        solution = solved(Demand(phase), least)
        assert (solution.placement.blocks_to_swap, solution.placement.ring) == expected
    tight = solved(Demand(train), train.need(40, 2, mode).total)
    assert (tight.placement.blocks_to_swap, tight.placement.ring) == (40, 2)
    short = solved(Demand(train), least, rings=(2,))
    assert (short.placement.blocks_to_swap, short.placement.ring) == (38, 2)


def test_an_explicit_number_of_blocks_takes_the_longest_ring_that_fits() -> None:
    phase = training(blocks=10)
    for room, ring in ((0, 2), (100 * MIB, 3), (300 * MIB, 4)):
        least = phase.need(7, 2, phase.modes[0]).total
        solution = solved(Demand(phase), least + room, 7)
        assert (solution.placement.blocks_to_swap, solution.placement.ring) == (7, ring)


def test_no_number_of_blocks_is_tried_that_the_ring_would_hold_anyway() -> None:
    assert training(blocks=6).counts("auto", 2) == [0, 3, 4, 5, 6]
    assert training(blocks=2).counts("auto", 2) == [0]


@given(demands(), budgets)
def test_the_tile_is_the_largest_that_fits(demand: Demand, budget: int) -> None:
    solution = possible(demand, budget)
    (phase,) = demand.tiles
    fitting = [tile for tile in (None, 512, 128) if phase.need(tile).total <= budget]
    assert solution.placement.vae_tile == fitting[0]


@given(demands(), budgets, budgets)
def test_what_happens_to_be_free_does_not_decide_the_tile(
    demand: Demand, budget: int, steady: int
) -> None:
    solution = possible(demand, budget, steady=steady)
    (phase,) = demand.tiles
    for tile in (None, 512, 128):
        if phase.need(tile).total <= min(steady, budget):
            assert solution.placement.vae_tile == tile
            break
    else:
        assert phase.need(solution.placement.vae_tile).total <= budget


@given(demands(), budgets)
def test_a_slower_way_is_taken_only_where_the_faster_does_not_fit_at_all(
    demand: Demand, budget: int
) -> None:
    assume(not demand.blocks.free)
    solution = possible(demand, budget)
    phase = demand.blocks
    fits = [phase.need(k, 2, phase.modes[0]).total <= budget for k in phase.counts("auto", 2)]
    assert (solution.placement.recompute == "layer") == (not any(fits))


@given(demands(), budgets)
def test_a_way_that_costs_no_time_is_taken_as_soon_as_it_swaps_fewer_blocks(
    demand: Demand, budget: int
) -> None:
    assume(demand.blocks.free)
    solution = possible(demand, budget)
    least = [
        min((k for k in demand.blocks.counts("auto", 2)
             if demand.blocks.need(k, 2, mode).total <= budget), default=None)
        for mode in demand.blocks.modes
    ]  # fmt: skip
    assert solution.placement.ring == 2
    assert solution.placement.blocks_to_swap == min(k for k in least if k is not None)
    assert solution.placement.split_batch == (least[0] is None or least[0] > least[1])


@given(demands(), budgets, budgets)
def test_more_memory_never_makes_it_slower(demand: Demand, one: int, other: int) -> None:
    small, large = possible(demand, min(one, other)), solved(demand, max(one, other))

    def cost(solution: Solution) -> tuple[bool, int]:
        placement = solution.placement
        moved = demand.blocks.moved(placement.blocks_to_swap, placement.ring)
        return placement.recompute == "layer", moved

    assert cost(large) <= cost(small)
    edges = [600 if s.placement.vae_tile is None else s.placement.vae_tile for s in (small, large)]
    assert edges[1] >= edges[0]


swaps: st.SearchStrategy[Swap] = st.one_of(st.just("auto"), st.integers(0, 1))


@given(demands(), swaps)
def test_the_smallest_budget_fits_and_a_byte_less_does_not(demand: Demand, swap: Swap) -> None:
    _, least = smallest(demand, swap, RESIDENT.ring)
    assert solve(demand, least, swap, RESIDENT) is not None
    assert solve(demand, least - 1, swap, RESIDENT) is None


def test_an_explicit_number_is_obeyed_or_refused() -> None:
    demand = Demand(training())
    roomy = solved(demand, 100 * GIB, 7)
    assert roomy.placement.blocks_to_swap == 7
    assert "7 of 10 blocks are swapped, as set" in roomy.reason
    least = smallest(demand, 7, 2)[1]
    assert least > smallest(demand, "auto", 2)[1]
    assert solve(demand, least - 1, 7, RESIDENT) is None


def test_what_is_not_the_solvers_to_choose_is_kept() -> None:
    base = replace(RESIDENT, weights="mapped", storage="float8", activation_offload=True)
    solution = solved(Demand(training()), 100 * GIB, base=base)
    assert solution.placement == base
    assert solution.reason == "all 10 blocks stay on the GPU"


def test_what_the_allocator_loses_is_a_tenth_of_the_activations() -> None:
    need = Need(resident=5, ring=4, others=3, adapter=2, inputs=1, activations=1001)
    assert need.allocated == 5 + 4 + 3 + 2 + 1 + 1001
    assert need.total == need.allocated + 101


def test_the_reason_tells_what_one_block_less_would_need() -> None:
    phase = training(whole=100, layer=50)
    budget = phase.need(6, 2, phase.modes[0]).total
    solution = solved(Demand(phase), budget)
    over = f"{phase.need(7, 4, phase.modes[0]).total / GIB:.2f}"
    assert solution.reason.startswith(
        f"8 of 10 blocks are swapped through 4 buffers, the fewest that fit (7 would need {over} of"
    )


def test_a_refusal_names_the_smallest_budget_and_only_changes_that_fit() -> None:
    demand = Demand(training())
    lighter = Demand(training(layer=500))
    heavier = Demand(training(layer=999))
    name, least = smallest(demand, "auto", 2)
    too_little = Change("change too little", heavier, "auto")
    enough = Change("change enough", lighter, "auto")
    more = Change("change more than needed", lighter, "auto")
    assert solve(heavier, least - 200 * MIB, "auto", RESIDENT) is None
    text = str(
        refuse(
            demand, on_gpu(least - 200 * MIB), "auto", RESIDENT,
            [[too_little, enough, more], [too_little], []],
        )
    )  # fmt: skip
    assert f"{name} needs" in text
    told = re.findall(r"memory.vram_budget_gb = ([0-9.]+)", text)
    (cap,) = [round(float(t) * GIB) for t in told]
    assert solve(demand, cap - RESERVE - CONTEXT, "auto", RESIDENT) is not None
    assert "  change enough" in text
    assert "too little" not in text
    assert "more than needed" not in text
    alone = str(refuse(demand, on_gpu(least - MIB), "auto", RESIDENT, []))
    assert "no single change fits this budget" in alone
