"""Clips of several segments: generated one after another, each once, and put together."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from maskora.app import infer, passages, plan
from maskora.app.generate import Passage
from maskora.app.passages import passage_of
from maskora.app.workspace import PREVIEW
from maskora.method.segments import Segment
from maskora.progress import VARIABLE
from maskora.video.write import write_mp4
from tests.app.conftest import (
    FAST,
    Prepared,
    Run,
    at,
    frames_of,
    keeps_the_background,
    ok,
    refused,
    repaint,
    sets,
)
from tests.app.small import picture, small_clip, small_edit
from tests.ball import draw_frame
from tests.system import posix_only

FRAMES = 25
FRAME = 80 * 48 * 3  # bytes
BARE = ["--lora", "none"]
Sampled = list[tuple[int, int]]


@pytest.fixture(scope="module")
def prepared_long(tmp_path_factory: pytest.TempPathFactory, run: Run, tiny_model: Path) -> Path:
    """A clip of 25 frames that goes in segments of at most 13: 0-12, 9-20 and 17-24."""
    home = tmp_path_factory.mktemp("long")
    video, root = home / "ball.mp4", home / "ws"
    write_mp4(video, (draw_frame(n, (60, 120, 220)) for n in range(FRAMES)), Fraction(16))
    ok(run(
        "prepare", video, root, "--box", "16,64,120,96", "--size", "80x48", "--frames", FRAMES,
        "--caption", "a blue ball", "--edited-caption", "an orange ball", *FAST,
        *sets(f"model.path={tiny_model}", "inference.segment=13", "inference.overlap=4"),
    ))  # fmt: skip
    repaint(root, 0, (10, 20, 20, 15))
    return root


@pytest.fixture
def long(prepared_long: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared_long, tmp_path / "ws"))


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Sampled:
    """The segment (from 0) and the seed of everything that is sampled."""
    asked, real = Sampled(), passages.generate

    def generate(config: object, model: object, encoded: dict[int, Any], *rest: Any) -> Any:
        asked.extend((rest[-1], seed) for seed in encoded)
        return real(config, model, encoded, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(passages, "generate", generate)
    return asked


def test_a_long_clip_is_generated_whole_and_once(
    long: Path, run: Run, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ok(run("infer", *at(long), *BARE))
    assert "segment 3 of 3: frames 17 to 24, about" in answer.err
    assert sampled == [(0, 0), (1, 0), (2, 0)]
    frames = keeps_the_background(long)
    assert len(frames) == FRAMES
    first = frames_of(long)
    assert not list((long / "cache").glob(".*")), "the frames that waited in a file are gone"
    ok(run("infer", *at(long), *BARE))
    assert len(sampled) == 3, "every segment is kept"
    assert np.array_equal(frames_of(long), first)
    ok(run("infer", *at(long), *BARE, "--from", "2"))
    assert sampled[3:] == [(1, 0), (2, 0)]
    assert np.array_equal(frames_of(long), first)
    refused(run("infer", *at(long), *BARE, "--from", "4"), "--from 4", "3 segments")


def test_what_people_are_told_names_the_segments(
    long: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In check and plan, while it is generated, in the record, and in the report."""
    assert "generated in 3 segments of at most 13 frames" in ok(run("check", *at(long))).out
    text = ok(run("plan", *at(long), "--device", "cpu")).out
    assert f"0.0 GB of frames per seed wait in {long / 'cache'} while it is generated" in text
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress.jsonl"))
    ok(run("infer", *at(long), *BARE))
    states = map(json.loads, (tmp_path / "progress.jsonl").read_text().splitlines())
    parts = [state["part"] for state in states if state["task"] == "denoise"]
    assert list(dict.fromkeys(parts)) == [f"segment {number} of 3" for number in (1, 2, 3)]
    assert json.loads((long / "output" / "run.json").read_text())["segments"] == [
        {"start": 0, "stop": 13, "kept": 0, "anchor": None},
        {"start": 9, "stop": 21, "kept": 4, "anchor": 0},
        {"start": 17, "stop": 25, "kept": 4, "anchor": 0},
    ]
    ok(run("evaluate", long))
    content = json.loads((long / "output" / "report.json").read_text())
    assert [(one["start"], one["stop"]) for one in content["segments"]] == [
        (0, 13), (13, 21), (21, 25),
    ]  # fmt: skip
    assert "Segment by segment" in (long / "output" / "report.html").read_text()
    ok(run("rerun", long / "output" / "run.json"))


def test_what_was_interrupted_goes_on_in_the_segment_where_it_was(
    long: Path, run: Run, sampled: Sampled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(long, tmp_path / "other"))
    ok(run("infer", *at(other), *BARE, "--seed", "3,4"))
    del sampled[:]
    calls, decode = itertools.count(1), passages.decode_video

    def interrupted(*arguments: Any) -> Tensor:
        if next(calls) == 5:  # the last segment's first seed
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(passages, "decode_video", interrupted)
    assert run("infer", *at(long), *BARE, "--seed", "3,4").status == 130
    assert sampled == [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)]
    del sampled[:]
    ok(run("infer", *at(long), *BARE, "--seed", "3,4"))
    assert not sampled
    assert np.array_equal(frames_of(long), frames_of(other))
    for name in ("edited.mkv", "seed-4/edited.mkv"):
        ours, theirs = (root / "output" / name for root in (long, other))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_changed_keyframe_repeats_only_what_depends_on_it(
    long: Path, run: Run, sampled: Sampled
) -> None:
    bare = at(long, "inference.lora=none")
    repaint(long, 17, (40, 20, 20, 15))
    ok(run("infer", *bare))
    before = frames_of(long)
    repaint(long, 17, (36, 18, 24, 20))
    assert "have no effect" not in ok(run("infer", *bare)).err
    assert sampled == [(0, 0), (1, 0), (2, 0), (2, 0)]
    after = frames_of(long)
    assert np.array_equal(after[:17], before[:17])
    assert not np.array_equal(after[17:], before[17:])
    repaint(long, 21)
    assert "have no effect" in ok(run("infer", *bare)).err, "no segment begins after it"


def test_a_preview_shows_edited_frames_that_segments_open_at(
    long: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SMALLEST", 1)
    target = long / "output" / PREVIEW
    ok(run("preview", *at(long)))
    without = frames_of(target)
    repaint(long, 17, (40, 20, 20, 15))
    ok(run("preview", *at(long)))
    changed = (frames_of(target) != without).any(axis=(1, 2, 3))
    assert changed[17:].all()


def test_a_rerun_generates_anew(long: Path, run: Run, sampled: Sampled) -> None:
    ok(run("infer", *at(long), *BARE))
    answer = ok(run("rerun", long / "output" / "run.json"))
    assert sampled == [(0, 0), (1, 0), (2, 0)] * 2
    assert answer.out.startswith("the same bytes as then: comparison.mp4, edited.mkv")


@posix_only
def test_too_little_room_for_what_waits_is_told_before_any_work(
    long: Path, run: Run, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer.shutil, "disk_usage", lambda _: SimpleNamespace(free=FRAMES * FRAME))
    answer = run("infer", *at(long), *BARE, "--seed", "1,2")
    assert answer.status == 1
    assert f"frames wait in {long / 'cache'}" in answer.err
    assert "generate fewer seeds at a time" in answer.err
    assert not sampled
    ok(run("infer", *at(long), *BARE))


def test_a_full_disk_stops_what_waits_for_room_and_leaves_nothing(
    long: Path, run: Run, sampled: Sampled
) -> None:
    """A limit on the size of a file stands for it: of the frames, which grow with the clip."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * FRAME, limits[1]))
    try:
        answer = run("infer", *at(long), *BARE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer.status == 1
    last = answer.err.splitlines()[-1]
    assert last.startswith(f"maskora: File too large: {long / 'cache' / '.frames-'}")
    assert sampled == [(0, 0), (1, 0)], "nothing is generated for which there is no room"
    assert not list((long / "cache").glob(".*"))
    assert not [*(long / "output").iterdir()]
    ok(run("infer", *at(long), *BARE))
    assert sampled[2:] == [(2, 0)], "what was generated is kept"
    assert len(keeps_the_background(long)) == FRAMES


@posix_only
@pytest.mark.slow
def test_a_killed_run_goes_on_and_nothing_of_it_is_left(
    long: Path, run: Run, sampled: Sampled, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(long, tmp_path / "other"))
    ok(run("infer", *at(other), *BARE))
    del sampled[:]
    words = [sys.executable, "-m", "maskora", "infer", *map(str, at(long)), *BARE]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "segment 3 of 3" not in process.stderr.readline():
            assert process.poll() is None
        process.kill()
    (abandoned,) = (long / "cache").glob(".frames-*")
    assert (abandoned / "0").stat().st_size == 21 * FRAME
    ok(run("infer", *at(long), *BARE))
    assert sampled[-1:] == [(2, 0)]
    assert (0, 0) not in sampled
    assert (1, 0) not in sampled
    ours, theirs = (root / "output" / "edited.mkv" for root in (long, other))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not [path.name for path in (long / "cache").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "settings",
    [
        ('transfer.start="inverted"', 'transfer.attention="qk"'),
        ('transfer.start="flow"', "transfer.start_level=0.8", "inference.anchor=false"),
        ('inference.lock="latent"',),
        ("inference.guidance=3", "inference.conditioning=first-frame"),
    ],
    ids=["instant", "flow, chained", "latent lock", "guided, plain"],
)
def test_every_method_goes_through_segments(long: Path, run: Run, settings: tuple[str]) -> None:
    ok(run("infer", *at(long, *settings), *BARE))
    assert len(frames_of(long)) == FRAMES


def test_a_clip_of_several_shots_goes_from_shot_to_shot(
    run: Run, tmp_path: Path, tiny_model: Path, sampled: Sampled
) -> None:
    """A hard cut at frame 14, whose first frame is edited, and a shot of one that is not."""
    rng = np.random.default_rng(1)
    other = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    frames = [draw_frame(n, (60, 120, 220)) for n in range(20)]
    write_mp4(
        tmp_path / "cut.mp4", iter([*frames[:14], *[other] * 11, *frames[10:20]]), Fraction(16)
    )
    root = tmp_path / "ws"
    answer = ok(run(
        "prepare", tmp_path / "cut.mp4", root, "--box", "16,64,120,96", "--size", "80x48",
        "--frames", "all", "--caption", "a ball", "--edited-caption", "an orange ball", *FAST,
        *sets(f"model.path={tiny_model}", "inference.segment=13", "inference.overlap=4"),
    ))  # fmt: skip
    assert "3 shots, new ones from frame 14 (a cut), 25 (a cut)" in answer.out
    for frame in (0, 14):
        repaint(root, frame, (10, 20, 20, 15))
    ok(run("train", *at(root), "--stage", "motion"))
    answer = ok(run("infer", *at(root), *BARE))
    ok(run("infer", *at(root, 'transfer.start="flow"', "transfer.start_level=0.8"), *BARE))
    begins = re.findall(r"segment \d of 4: frames (\d+) to (\d+)", answer.err)
    assert begins == [("0", "12"), ("9", "13"), ("14", "24"), ("25", "34")]
    assert len(keeps_the_background(root)) == 35


@pytest.mark.parametrize(("asked", "frames"), [(6, 6), ("all", 9), (8, 8)])
def test_any_number_of_frames_is_learned_from_and_comes_out(
    asked: object, frames: int, prepared: Prepared, run: Run
) -> None:
    root = prepared("--frames", asked, "--set", "motion.window=full")
    ok(run("train", *at(root)))
    ok(run("infer", *at(root)))
    assert len(keeps_the_background(root)) == frames


def passage(segment: Segment) -> Passage:
    kept = np.stack([picture(200 + number) for number in range(segment.kept or 1)])
    return passage_of(segment, small_clip(), small_edit(), kept[: segment.kept], longest=81)


def test_a_segment_that_goes_on_is_shown_its_anchor_and_what_is_done() -> None:
    clip, edit = small_clip(), small_edit()
    shown = passage(Segment(5, 9, 0, 4))
    assert np.array_equal(shown.frames_THWC, clip.frames_THWC[4:9])
    assert np.array_equal(shown.labels_THW, clip.labels_THW[4:9])
    assert np.array_equal(shown.given_THWC, edit.keyframes[4].image_HWC[None])
    assert shown.caption == edit.keyframes[4].caption
    shown = passage(Segment(1, 9, 4, 0))
    assert np.array_equal(shown.frames_THWC, clip.frames_THWC)
    assert np.array_equal(shown.given_THWC[0], edit.first.image_HWC)
    assert np.array_equal(shown.given_THWC[4], picture(203))
    shown = passage(Segment(1, 9, 5))
    assert np.array_equal(shown.frames_THWC[:8], clip.frames_THWC[1:])
    assert np.array_equal(shown.frames_THWC[8], clip.frames_THWC[8]), "the last one again"
    assert np.array_equal(shown.given_THWC[0], picture(200))
