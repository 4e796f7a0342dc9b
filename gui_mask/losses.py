"""The loss of each stage, as training writes it down."""

from collections.abc import Iterator
from dataclasses import dataclass

from maskora.training.report import read_metrics, smoothed
from maskora.workspace import Stage, Workspace

STAGES: tuple[Stage, ...] = ("motion", "appearance")


@dataclass(frozen=True)
class Losses:
    """A stage's loss over its steps, smoothed."""

    stage: Stage
    steps: tuple[int, ...]
    smoothed: tuple[float, ...]


def read_losses(workspace: Workspace, edit: str | None) -> Iterator[Losses]:
    """Of each stage that has taken a step."""
    for stage in STAGES:
        entries = read_metrics(workspace.metrics(stage, edit))
        if entries:
            yield Losses(
                stage=stage,
                steps=tuple(e.step for e in entries),
                smoothed=tuple(smoothed([e.loss for e in entries])),
            )
