"""Seconds per step that this machine has measured, kept beside what decides them."""

from typing import Any

from maskora.app.remembered import recall, remember
from maskora.files import parse_json

# What of a placement follows from what happens to be free, and how much fewer blocks are near.
FLUID, NEAR = ("blocks_to_swap", "ring", "vae_tile"), 8
LONGEST = 1e6  # seconds of a step: what is more was damaged
TABLE = "timings"


def lookup(key: str) -> float | None:
    """The seconds that a step took the last time; None where it was never measured here."""
    return _known().get(key)


def neighbour(key: str) -> tuple[float, int] | None:
    """The seconds of the same step with nearly as many swapped blocks, and how many those were.

    What is free of a GPU differs a little from run to run, and so does the number of blocks.
    """
    swapped, rest = _apart(key)
    near: list[tuple[int, float, int]] = []
    for other, seconds in _known().items():
        count, others_rest = _apart(other)
        distance = abs(count - swapped)
        if rest is not None and others_rest == rest and distance <= max(swapped, count) / NEAR:
            near.append((distance, seconds, count))
    return min(near)[1:] if near else None


def _apart(key: str) -> tuple[int, dict[str, Any] | None]:
    """How many blocks a step swaps, and all else that decides its time; None where it is none."""
    try:
        facts = parse_json(key)
    except ValueError:
        return 0, None
    placement = facts.get("placement") if isinstance(facts, dict) else None
    if not isinstance(placement, dict) or not isinstance(placement.get("blocks_to_swap"), int):
        return 0, None
    left = {name: value for name, value in placement.items() if name not in FLUID}
    return placement["blocks_to_swap"], {**facts, "placement": left}


def record(key: str, seconds: float) -> None:
    """Remember how long a step took."""
    remember(TABLE, key, seconds)


def _known() -> dict[str, float]:
    """What is there, as far as it can be: a plan is a plan without seconds, too."""
    known = {key: v for key, v in recall(TABLE).items() if isinstance(v, int | float)}
    return {key: float(seconds) for key, seconds in known.items() if 0 < seconds < LONGEST}
