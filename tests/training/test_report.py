"""Metrics on disk: torn lines, TensorBoard's own reader, a disk that is full."""

import errno
import io
from pathlib import Path

import pytest

from maskora.training import report
from maskora.training.report import MetricsWriter, StepMetrics, read_metrics


def entry(step: int) -> StepMetrics:
    return StepMetrics(step, 0.5 / step, 1.0, 0.25, ("window",), 0.1)


def written(folder: Path, first: int, last: int) -> Path:
    """metrics.jsonl of a run that goes on after a step."""
    writer = MetricsWriter(folder / "metrics.jsonl", folder / "tensorboard", first - 1)
    for step in range(first, last + 1):
        writer.add(entry(step))
    writer.flush()
    writer.close()
    return folder / "metrics.jsonl"


@pytest.mark.parametrize("tail", [b'{"step": 4, "lo', b"\xff\xfe", b"null\n", b"3\n", b'"a"\n'])
def test_a_torn_last_line_is_left_out_and_the_run_goes_on(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, 1, 3)
    with path.open("ab") as file:
        file.write(tail)
    assert read_metrics(path) == [entry(1), entry(2), entry(3)]
    assert f"{path} is damaged after step 3" in caplog.text
    written(tmp_path, 4, 5)
    caplog.clear()
    assert read_metrics(path) == [entry(step) for step in range(1, 6)]
    assert not caplog.text


def test_tensorboard_reads_what_a_resumed_run_has_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(tmp_path, 1, 4)
    written(tmp_path, 3, 5)  # step 4 of the first run does not count any more
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["gradient_norm", "loss", "noise_level", "seconds"]
    scalars = events.Scalars("loss")
    assert [(one.step, one.value) for one in scalars] == [
        (step, pytest.approx(0.5 / step)) for step in (1, 2, 3, 4, 5)
    ]


@pytest.mark.parametrize("full", ["metrics.jsonl", "events"])
def test_a_full_disk_names_the_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0)
    real = report._append

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def append(path: Path, file: io.FileIO, data: bytes) -> None:
        real(path, Full() if path.name.startswith(full) else file, data)  # type: ignore[arg-type]

    monkeypatch.setattr(report, "_append", append)
    with pytest.raises(OSError, match="No space") as told:
        writer.add(entry(1))
    assert Path(told.value.filename).name.startswith(full)
    writer.close()
