"""Metrics of a training run: metrics.jsonl, TensorBoard files, loss.png."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from pydantic.dataclasses import dataclass

from maskora.files import parse_json, patiently, replacing

log = logging.getLogger("maskora")


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step.

    Attributes:
        step: counted from 1.
        loss: mean over the step's samples.
        gradient_norm: before clipping.
        noise_level: mean over the step's samples, 0 to 1.
        samples: which samples the step saw.
        seconds: wall time of the step.
    """

    step: int
    loss: float
    gradient_norm: float
    noise_level: float
    samples: tuple[str, ...]
    seconds: float


class MetricsWriter:
    """Appends metrics as they come; a resumed run continues the same files."""

    def __init__(self, metrics: Path, tensorboard: Path, after_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = metrics
        kept = [entry for entry in read_metrics(metrics) if entry.step <= after_step]
        with replacing(metrics) as scratch:
            scratch.write_bytes("".join(_line(entry) for entry in kept).encode())
        self._file = metrics.open("a", encoding="utf-8", newline="\n")
        self._board = SummaryWriter(str(tensorboard), purge_step=after_step + 1)

    def add(self, entry: StepMetrics) -> None:
        """Write one step."""
        self._file.write(_line(entry))
        self._file.flush()
        for name in ("loss", "gradient_norm", "noise_level", "seconds"):
            self._board.add_scalar(name, getattr(entry, name), entry.step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[StepMetrics]:
    """The steps in a metrics.jsonl, up to the first line that is damaged or cut short."""
    if not path.exists():
        return []
    steps: list[StepMetrics] = []
    text = patiently(path.read_bytes, path).decode("utf-8", "replace")
    for line in text.splitlines():
        try:
            entry = parse_json(line)
            steps.append(StepMetrics(**{**entry, "samples": tuple(entry["samples"])}))
        except (ValueError, KeyError, TypeError):
            log.warning("%s is damaged after step %d; the rest is left out", path, len(steps))
            break
    return steps


def draw_loss(metrics: Path, picture: Path, title: str) -> None:
    """Draw loss over steps, raw and smoothed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = read_metrics(metrics)
    steps, losses = [e.step for e in entries], [e.loss for e in entries]
    figure, axes = pyplot.subplots(figsize=(8, 4), dpi=110)
    axes.plot(steps, losses, ".", color="#9bb7d4", label="one step")
    axes.plot(steps, smoothed(losses), color="#1f4e79", label="smoothed")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with replacing(picture) as scratch:
        figure.savefig(scratch)
    pyplot.close(figure)


def smoothed(values: list[float], memory: float = 0.9) -> list[float]:
    """Exponential moving average without the bias of its start (Kingma & Ba 2015, section 3)."""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total = memory * total + (1 - memory) * value
        weight = memory * weight + (1 - memory)
        result.append(total / weight)
    return result


def _line(entry: StepMetrics) -> str:
    return json.dumps(asdict(entry)) + "\n"
