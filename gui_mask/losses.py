"""The loss of each stage, as training writes it down."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskora.training.report import read_metrics, smoothed
from maskora.workspace import Stage, Workspace

STAGES: tuple[Stage, ...] = ("motion", "appearance")


@dataclass(frozen=True)
class Losses:
    """A stage's loss over its steps, and the picture of it where there is one."""

    stage: Stage
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    picture: Path | None


def read_losses(workspace: Workspace, edit: str | None) -> Iterator[Losses]:
    """Of each stage that has taken a step."""
    for stage in STAGES:
        entries = read_metrics(workspace.metrics(stage, edit))
        if entries:
            losses, picture = [e.loss for e in entries], workspace.loss_picture(stage, edit)
            yield Losses(
                stage=stage,
                steps=tuple(e.step for e in entries),
                losses=tuple(losses),
                smoothed=tuple(smoothed(losses)),
                picture=picture if picture.is_file() else None,
            )
