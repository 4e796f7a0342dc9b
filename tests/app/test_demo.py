"""The demo: quickly, hardly trained; and as a person runs it, whose edit must be there."""

import json
from pathlib import Path

import numpy as np
import pytest

from maskora.app import demo
from maskora.app.demo import FRAMES, KEYFRAME, ROUNDS, SIDE, DemoClip
from maskora.masks.files import read_labels
from maskora.video.images import image_size, read_image
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import Run, ok

HARDLY = {"motion.steps": 2, "appearance.steps": 2, "inference.steps": 2}


def test_the_demo_ends_with_a_picture_and_goes_on_where_it_stands(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, **HARDLY})
    folder = tmp_path / "demo"
    first = ok(run("demo", folder))
    assert image_size(folder / "demo.png")[0] > 1000
    assert probe(folder / "demo.mp4").frames == FRAMES * ROUNDS
    output = folder / "workspace" / "output"
    for told in (folder / "demo.png", folder / "demo.mp4", output / "edited.mp4"):
        assert str(told) in first.out
    assert "against the truth: hit rate" in first.out
    assert probe(output / "edited.mp4").width == SIDE
    adapters = sorted((folder / "workspace" / "runs").rglob("adapter.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in adapters]
    ok(run("demo", folder))
    assert [path.stat().st_mtime_ns for path in adapters] == stamps


def test_the_demo_does_not_move_into_a_full_folder(tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    answer = run("demo", tmp_path)
    assert answer.status == 2
    assert "already holds something" in answer.err
    assert run("demo", tmp_path / "thesis.tex").status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_that_was_stopped_at_its_clip_goes_on(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_clip", stop)
        assert run("demo", tmp_path / "demo").status != 0
    seen: list[Path] = []
    monkeypatch.setattr(demo, "write_clip", lambda clip: seen.append(clip.video) or stop())
    run("demo", tmp_path / "demo")
    assert seen == [tmp_path / "demo" / "clip.mp4"]


@pytest.mark.slow
def test_the_edit_is_carried_along_and_evolves(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "demo"
    ok(run("demo", folder))
    output = folder / "workspace" / "output"
    means = json.loads((output / "report.json").read_text())["means"]
    assert means["outside_psnr"] == "identical"
    assert means["hit_rate"] > 0.7
    assert means["centroid_error"] < 3
    assert means["orientation_error"] < 20
    clip, results = DemoClip(folder), list(read_frames(probe(output / "edited.mp4")))
    last = _colour(results[KEYFRAME], clip, KEYFRAME)
    pink, violet = (_colour(read_image(clip.truth_frame(n)), clip, n) for n in (0, KEYFRAME))
    assert np.linalg.norm(last - violet) < np.linalg.norm(last - pink)


def _colour(frame_HWC: np.ndarray, clip: DemoClip, frame: int) -> np.ndarray:
    """The mean colour where the edited sprite must be."""
    sprite_HW = read_labels(clip.truth / "masks" / f"{frame:05d}.png") > 0
    return np.asarray(frame_HWC[sprite_HW].mean(axis=0))
