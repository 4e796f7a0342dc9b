"""Metrics of a training run: metrics.jsonl, TensorBoard files, loss.png."""

import io
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from maskora.files import flush, naming, parse_json, read_small, replacing, write_text

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
        self._path = metrics
        kept = [entry for entry in read_metrics(metrics) if entry.step <= after_step]
        write_text(metrics, "".join(_line(entry) for entry in kept))
        self._file = metrics.open("ab", buffering=0)
        self._board = _Board(tensorboard, after_step)

    def add(self, entry: StepMetrics) -> None:
        """Write one step. Raises OSError."""
        _append(self._path, self._file, _line(entry).encode())
        self._board.add(entry)

    def flush(self) -> None:
        """Wait until the disk has what was written."""
        flush(self._path)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


class _Board:
    """TensorBoard's file, written at once: in a thread, as its own writer does, failures are lost.

    Each scalar is an event; those of an earlier run after the step that this one goes on from do
    not count any more.
    """

    def __init__(self, folder: Path, after_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        place = f"{platform.node()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{place}"
        self._file = self._path.open("wb", buffering=0)
        self._as_record, self._event = RecordWriter, Event
        self._write(file_version="brain.Event:2")
        self._write(step=after_step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, entry: StepMetrics) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name in ("loss", "gradient_norm", "noise_level", "seconds"):
            value = Summary.Value(tag=name, simple_value=getattr(entry, name))
            self._write(step=entry.step, summary=Summary(value=[value]))

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        record, event = io.BytesIO(), self._event(wall_time=time.time(), **content)
        self._as_record(record).write(event.SerializeToString())
        _append(self._path, self._file, record.getvalue())


def _append(path: Path, file: io.FileIO, data: bytes) -> None:
    """Write all of some bytes, without a buffer that would fail once more when it is closed."""
    rest = memoryview(data)
    with naming(path):
        while rest:
            rest = rest[file.write(rest) :]


def read_metrics(path: Path) -> list[StepMetrics]:
    """The steps in a metrics.jsonl, up to the first line that is damaged or cut short."""
    if not path.exists():
        return []
    steps: list[StepMetrics] = []
    text = read_small(path).decode("utf-8", "replace")
    for line in text.splitlines():
        try:
            entry = parse_json(line)
            steps.append(StepMetrics(**{**entry, "samples": tuple(entry["samples"])}))
        except (ValueError, KeyError, TypeError):
            log.warning("%s is damaged after step %d; the rest is left out", path, len(steps))
            break
    return steps


def draw_loss(metrics: Path, picture: Path, title: str) -> None:
    """Draw a run's loss over its steps, raw and smoothed, as a PNG."""
    entries = read_metrics(metrics)
    draw_losses([e.step for e in entries], [e.loss for e in entries], picture, title)


def draw_losses(
    steps: Sequence[int],
    losses: list[float],
    picture: Path,
    title: str,
    memory: float = 0.9,
    scale: str = "linear",
) -> None:
    """Draw losses over steps, raw and smoothed, as a PNG.

    Args:
        memory: of the smoothing.
        scale: of the losses, as matplotlib calls it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), dpi=110)
    axes.plot(steps, losses, ".", color="#9bb7d4", markersize=3, label="one step")
    axes.plot(steps, smoothed(losses, memory), color="#1f4e79", label="smoothed")
    axes.set(xlabel="step", ylabel="loss", title=title, yscale=scale)
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
