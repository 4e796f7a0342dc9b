"""Losses of pretraining: kept as they come, drawn at the end."""

import json
from pathlib import Path

from maskora.files import replacing
from maskora.training.report import smoothed


def append_loss(path: Path, step: int, seconds: float, loss: float) -> None:
    """Add a step to a file of losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps({"step": step, "seconds": round(seconds, 2), "loss": loss}) + "\n")


def read_losses(path: Path) -> list[float]:
    """The losses in a file, by rising step; a step that was taken again counts once."""
    steps: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        steps[entry["step"]] = entry["loss"]
    return [steps[step] for step in sorted(steps)]


def draw_losses(losses: Path, picture: Path, title: str) -> None:
    """Draw loss over steps, raw and smoothed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = read_losses(losses)
    figure, axes = pyplot.subplots(figsize=(7, 3.5), dpi=90)
    axes.plot(values, ".", color="#9bb7d4", markersize=2, label="one step")
    axes.plot(smoothed(values, 0.98), color="#1f4e79", label="smoothed")
    axes.set(xlabel="step", ylabel="loss", title=title, yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with replacing(picture) as scratch:
        figure.savefig(scratch)
    pyplot.close(figure)
