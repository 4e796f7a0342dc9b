"""The settings of a case; needs no torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Job:
    """One process's work.

    Attributes:
        kind: "load", "train" or "infer".
        model: the model's folder.
        frames, width, height: of the clip, in pixels.
        dtype: that the base computes in.
        cap_gb: the GPU size to keep to, in GiB; None for all of it.
        steps: measured steps, after one that warms up.
        rank: of the LoRA.
        layers: how many blocks the model has.
        placement: the fields of `maskora.streaming.placement.Placement`.
        scratch: a folder for what it leaves to the next job of the same case.
        one_block: let one resident block stand for all of them.
    """

    kind: str
    model: str
    frames: int
    width: int
    height: int
    dtype: str
    cap_gb: float | None
    steps: int
    rank: int
    layers: int
    placement: dict[str, Any] = field(default_factory=dict)
    scratch: str = ""
    one_block: bool = False
