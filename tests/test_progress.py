"""Long work is reported: a bar for a terminal, lines for a watcher, neither for nothing."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from maskora import progress
from maskora.progress import VARIABLE, Progress, State, announce, read_state, track, within


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def states(path: Path) -> list[State]:
    return [State(**json.loads(line)) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("named", [None, ""])
def test_a_bar_is_drawn_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    if named is not None:
        monkeypatch.setenv(VARIABLE, named)
    assert list(track("abc", "frames", 3, "frame")) == ["a", "b", "c"]
    with Progress("motion", 30, "step", done=10) as training:
        training.advance(loss=0.25)
    with Progress("hub", 5_000_000, "B") as download:
        download.advance(5_000_000)
    bars = capsys.readouterr().err
    assert "frames: 100%|" in bars
    assert "3/3 [" in bars
    assert "motion:  37%|" in bars
    assert "11/30 [" in bars
    assert "loss=0.2500" in bars
    assert "5.00M/5.00M" in bars
    list(track([], "denoise", 0))
    list(track([1], "load to memory", 1, "block", brief=True))
    assert capsys.readouterr().err == "", "nothing to do, and nothing but a terminal's"


def test_a_watcher_reads_where_it_stands(
    watched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with Progress("motion", 10, "step", done=4) as training:
        assert read_state(watched) == State("motion", "step", 4, 10, 10.0)
        training.advance(2, loss=0.5)
        assert read_state(watched) == State("motion", "step", 6, 10, 30.0, 60.0, 0.5)
        training.advance(-1, loss=float("nan"))
    assert [(s.done, s.loss) for s in states(watched)] == [
        (4, None),
        (6, 0.5),
        (5, None),
        (5, None),
    ]
    list(track([], "denoise", 0))
    announce("loading the VAE")
    assert read_state(watched) == State("loading the VAE")
    assert capsys.readouterr().err == "", "a log that somebody reads holds no bar"


def test_what_is_reported_belongs_to_the_part_around_it(watched: Path) -> None:
    with within("segment 2 of 3"), within(""):
        list(track([1], "denoise", 1))
        announce("loading the VAE")
        assert read_state(watched) == State("loading the VAE", part="segment 2 of 3")
    with pytest.raises(ValueError, match="broken"), within("segment 3 of 3"):
        raise ValueError("broken")
    announce("writing")
    assert [state.part for state in states(watched)] == ["segment 2 of 3"] * 3 + [""]


def test_lines_come_once_a_second_and_at_both_ends(watched: Path) -> None:
    for _ in track(range(1000), "frames", 1000):
        pass
    assert [state.done for state in states(watched)] == [0, 1000]


def test_the_file_stays_small_and_a_cut_line_is_passed_over(
    watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_state(watched) is None
    watched.write_bytes(b'{"task": "tra')
    assert read_state(watched) is None
    watched.write_bytes(b'{"task": "track"}\n{"task": "den')
    assert read_state(watched) == State("track")
    with watched.open("r+b") as file:  # whatever it is, the end is enough
        file.seek(2**31)
        file.write(b'\n{"task": "track"}\n')
    tracemalloc.start()
    assert read_state(watched) == State("track")
    assert tracemalloc.get_traced_memory()[1] < 8 * progress.MOST_BYTES
    tracemalloc.stop()
    watched.unlink()
    monkeypatch.setattr(progress, "MOST_BYTES", 1000)
    for number in range(100):
        announce(f"part {number}")
    assert watched.stat().st_size < 1200
    assert read_state(watched) == State("part 99")


def test_what_cannot_be_written_ends_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none" / "progress.jsonl"))
    assert list(track([1, 2], "frames", 2)) == [1, 2]
    assert "could not be written" in caplog.text
    assert VARIABLE not in os.environ
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State("motion", "step", 3, 30, 3.0, 27.0), "motion: step 3 of 30, 00:27 left"),
        (State("denoise", "step", 4, 8, 60.0, 3723.0), "denoise: step 4 of 8, 1:02:03 left"),
        (State("motion", "step", 0, 30), "motion: step 0 of 30"),
        (State("track", "it", 2, 2, 1.0, 0.0), "track: 2 of 2"),
        (State("hub", "B", 12 * 10**8, 34 * 10**8), "hub: 1.20 of 3.40 GB"),
        (State("loading the VAE"), "loading the VAE"),
        (State("loading the VAE", part="segment 3 of 7"), "segment 3 of 7, loading the VAE"),
        (
            State("denoise", "step", 4, 8, part="segment 3 of 7"),
            "segment 3 of 7, denoise: step 4 of 8",
        ),
    ],
)
def test_a_state_in_words(state: State, text: str) -> None:
    assert state.text == text


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, maskora.progress; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interruption_that_python_has_ignored_is_seen_at_the_next_item(
    ignored_interruption: None,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(track([1, 2, 3], "denoise", 3))
    with pytest.raises(KeyboardInterrupt):
        announce("loading the transformer")
