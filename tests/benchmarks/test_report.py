"""The tables say what the JSON holds."""

from typing import Any

import pytest

from benchmarks.report import markdown, ratio

GIB = 2**30
PLACEMENT = {
    "blocks_to_swap": 40, "weights": "pinned", "storage": "float8", "activation_offload": True,
    "ring": 2, "recompute": "layer", "split_batch": False, "vae_tile": 256,
}  # fmt: skip


def case(**changes: Any) -> dict[str, Any]:
    phases = [
        {
            "name": name, "seconds": 12.0, "peak_allocated": peak * GIB,
            "peak_reserved": (peak + 1) * GIB, "host_before": GIB, "peak_host": 20 * GIB,
        }
        for name, peak in (("text encoder", 2), ("train", 6))
    ]  # fmt: skip
    return {
        "case": "train-9", "frames": 9, "storage": "float8", "placement": PLACEMENT,
        "plan": {"allocated_bytes": 5 * GIB, "ram_bytes": 18 * GIB, "reason": "it fits"},
        "outcome": "ok", "phases": phases,
        "step_seconds": [4.0, 3.0, 9.0], "step_bytes": [30_000_000_000] * 3,
        "resident": {"blocks": "all", "outcome": "ok", "step_seconds": [2.0, 1.0, 2.0]},
    } | changes  # fmt: skip


def results(*cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": {
            "gpu": "A GPU", "gpu_bytes": 24 * GIB, "cores": 8, "ram_bytes": 64 * GIB,
            "torch": "2.13.0", "cuda": "13.0", "bandwidth": 25e9,
            "staged_bandwidth": 9e9,
        },
        "model": {"layers": 40, "stored_bytes": 32_800_000_000},
        "settings": {
            "cap_gb": 8.0, "dtype": "bfloat16", "steps": 3, "rank": 16, "size": [832, 480],
        },
        "cases": list(cases),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bandwidth", "expected"),
    [
        (25e9, 2.0),  # the resident step of 2 s is longer than copying for 1.2 s
        (5e9, 4.0 / 6.0),  # copying for 6 s is longer
        (None, 2.0),
    ],
)
def test_a_step_is_compared_with_the_longer_of_computing_and_copying(
    bandwidth: float | None, expected: float
) -> None:
    assert ratio(case(), bandwidth) == pytest.approx(expected)


def test_without_a_resident_step_there_is_no_ratio() -> None:
    assert ratio(case(resident=None), 25e9) is None
    failed = {"blocks": "all", "outcome": "out of memory", "step_seconds": []}
    assert ratio(case(resident=failed), 25e9) is None


def test_a_row_has_the_highest_peak_and_the_median_step() -> None:
    text = markdown(results(case()))
    assert "A GPU (24 GB), 8 cores, 64 GB RAM, torch 2.13.0, CUDA 13.0" in text
    assert "held to a GPU of 8.0 GB" in text
    placement = "40 swapped, pinned, float8, activation offload, recompute layer, VAE tile 256"
    row = f"| train-9 (9 frames) | {placement} | ok | 6.00 | 5.00 | 7.00 | 20.00 | 18.00 |"
    assert f"{row} 4.00 | 30.00 | 2.00 | 2.00 |" in text
    assert "Plan: it fits." in text
    assert "| text encoder | 12.00 | 2.00 | 3.00 | 1.00 | 20.00 |" in text


def test_a_case_that_never_ran_is_a_row_too() -> None:
    refused = case(
        outcome="refused by the plan: no", placement=None, plan=None, phases=[], step_seconds=[],
        step_bytes=[], resident=None,
    )  # fmt: skip
    row = "| train-9 (9 frames) | float8 | refused by the plan: no |" + " – |" * 9
    assert row in markdown(results(refused))


@pytest.mark.parametrize(
    ("pinned", "staged", "told", "against"),
    [
        (25e9, 9e9, "25.0 GB/s from pinned memory, 9.0 GB/s through staging", "2.00"),
        (None, 3e9, "no memory can be pinned, 3.0 GB/s through staging", "0.40"),
        (None, None, "no device", "2.00"),
    ],
)
def test_both_bandwidths_are_told_and_steps_are_compared_with_the_better_one(
    pinned: float | None, staged: float | None, told: str, against: str
) -> None:
    measured = results(case())
    measured["machine"] |= {"bandwidth": pinned, "staged_bandwidth": staged}
    text = markdown(measured)
    assert f"- host to device: {told}\n" in text
    assert f"| 2.00 | {against} |" in text
