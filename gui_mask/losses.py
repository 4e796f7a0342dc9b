"""The loss of each stage, as training writes it down."""

from collections.abc import Iterator
from dataclasses import dataclass

from maskora.app.workspace import Stage, Workspace
from maskora.training.report import read_metrics, smoothed

STAGES: tuple[Stage, ...] = ("motion", "appearance")


@dataclass(frozen=True)
class Losses:
    """A stage's loss over its steps, smoothed; of a base with two transformers, one per each."""

    stage: str
    steps: tuple[int, ...]
    smoothed: tuple[float, ...]


def read_losses(workspace: Workspace, edit: str | None) -> Iterator[Losses]:
    """Of each stage that has taken a step."""
    for stage in STAGES:
        for title, path in workspace.metrics(stage, edit).items():
            if entries := read_metrics(path):
                yield Losses(
                    stage=title,
                    steps=tuple(e.step for e in entries),
                    smoothed=tuple(smoothed([e.loss for e in entries])),
                )
