"""maskora evaluate: the command, on rendered workspaces and on a real run of the tiny model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskora.app.workspace import Workspace
from maskora.video.images import write_png
from tests.app.conftest import Answer
from tests.evaluation.scenes import BAD, FRAMES, Scene, draw_scene, good
from tests.evaluation.tiny_clip import write_tiny_clip
from tests.evaluation.workspaces import write_truth, write_workspace

Run = Callable[..., Answer]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene()


@pytest.fixture
def workspace(tmp_path: Path, scene: Scene) -> Workspace:
    """The scene with a good result."""
    return write_workspace(tmp_path / "ws", scene, good(scene))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "clip"
    write_tiny_clip(folder)
    return folder


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def test_a_good_result(workspace: Workspace, scene: Scene, run: Run, tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth", scene)
    answer = run("evaluate", workspace.root, "--truth", truth)
    assert answer.status == 0, answer.err
    assert "outside the mask all 13 frames are identical to the source" in answer.out
    assert "no known bad sign" in answer.out
    output = workspace.output_dir(None, None)
    assert str(output / "report.html") in answer.out
    assert (output / "report.html").stat().st_size > 100_000
    content = report(output)
    assert content["means"]["outside_psnr"] == "identical"
    assert content["means"]["hit_rate"] > 0.95
    assert content["judged"]["frames"] == FRAMES
    assert len(content["curves"]["centroid_error"]) == FRAMES
    assert [n for n, hit in enumerate(content["curves"]["hit_rate"]) if hit is None] == [0]


def test_a_bad_result_is_told(scene: Scene, run: Run, tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "ws", scene, BAD["faded"](scene))
    answer = run("evaluate", workspace.root)
    assert answer.status == 0, answer.err
    assert "bad sign: The edit turns back into the source" in answer.out
    signs = report(workspace.output_dir(None, None))["verdict"]["signs"]
    assert [sign["name"] for sign in signs] == ["vanished"]


def test_without_a_clip_no_torch_is_loaded(workspace: Workspace) -> None:
    code = (
        "import sys; from maskora.cli import app; "
        f"app(['evaluate', {str(workspace.root)!r}], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clip_and_quality(workspace: Workspace, clip: Path, run: Run) -> None:
    answer = run("evaluate", workspace.root, "--clip", clip, "--quality", clip)
    assert answer.status == 0, answer.err
    curves = report(workspace.output_dir(None, None))["curves"]
    expected = {
        "clip_score", "input_similarity", "clip_steadiness", "source_clip_steadiness", "quality",
        "source_quality",
    }  # fmt: skip
    assert expected <= set(curves)
    # The good result is blurred a little: near the edited first frame there, but not the same.
    assert 0.9 < curves["clip_score"][0] < 1.0
    assert curves["clip_steadiness"][0] is None


def test_what_an_edit_spills_beyond_the_mask_is_not_asked_for(
    scene: Scene, clip: Path, run: Run, tmp_path: Path
) -> None:
    """As in infer: the outside is the source's, whatever the edited frame shows there."""
    spilled = np.where(scene.box[0][..., None], scene.truth[0], 255 - scene.source[0])
    workspace = write_workspace(tmp_path / "ws", scene, scene.truth, edits={0: spilled})
    output = workspace.output_dir(None, None)
    assert run("evaluate", workspace.root, "--clip", clip).status == 0
    assert report(output)["curves"]["clip_score"][0] == pytest.approx(1.0, abs=1e-5)
    kept = (output / "run.json").read_text().replace('"spill": "source"', '"spill": "keep"')
    (output / "run.json").write_text(kept)
    assert run("evaluate", workspace.root, "--clip", clip).status == 0
    assert report(output)["curves"]["clip_score"][0] < 0.99


def test_edited_keyframes_are_held_against_the_result(
    scene: Scene, run: Run, tmp_path: Path
) -> None:
    edits = {0: scene.truth[0], 6: scene.truth[6]}
    workspace = write_workspace(tmp_path / "ws", scene, good(scene), edits=edits)
    assert run("evaluate", workspace.root).status == 0
    curve = report(workspace.output_dir(None, None))["curves"]["keyframe_psnr"]
    assert [n for n, value in enumerate(curve) if value is not None] == [6]
    assert 25 < curve[6] < 30


def test_without_an_exact_file_the_compressed_one_is_judged(
    scene: Scene, run: Run, tmp_path: Path
) -> None:
    workspace = write_workspace(tmp_path / "ws", scene, good(scene), lossless=False)
    assert run("evaluate", workspace.root).status == 0
    content = report(workspace.output_dir(None, None))
    assert 30 < content["means"]["outside_psnr"] < 60
    assert any("H.264" in note for note in content["notes"])
    assert content["verdict"]["signs"] == []


def test_a_truth_of_frames_alone(
    workspace: Workspace, scene: Scene, run: Run, tmp_path: Path
) -> None:
    """Without masks the object is where the truth differs from the source."""
    for number in range(FRAMES):
        write_png(tmp_path / "truth" / f"{number:05d}.png", scene.truth[number])
    assert run("evaluate", workspace.root, "--truth", tmp_path / "truth").status == 0
    means = report(workspace.output_dir(None, None))["means"]
    assert means["hit_rate"] > 0.95
    assert means["object_found"] == 1.0


def test_seeds(scene: Scene, run: Run, tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "ws", scene, good(scene), seed=5)
    first = workspace.output_dir(None, None)
    other = workspace.output_dir(None, 7)
    other.mkdir()
    for name in ("edited.mkv", "run.json"):
        (other / name).write_bytes((first / name).read_bytes())
    assert run("evaluate", workspace.root, "--seed", 5).status == 0
    assert not (other / "report.json").exists()
    assert run("evaluate", workspace.root, "--seed", 7).status == 0
    assert (other / "report.json").exists()
    answer = run("evaluate", workspace.root, "--seed", 6)
    assert answer.status == 2
    assert "no result of seed 6 (but of 5, 7)" in answer.err


def test_a_real_run(prepared: Callable[..., Path], run: Run) -> None:
    """infer takes an earlier report away; what it leaves is judged as it is."""
    root = prepared()
    output = Workspace(root).output_dir(None, None)
    output.mkdir()
    for name in ("report.html", "report.json"):
        (output / name).write_text("of an earlier result")
    answer = run("infer", "--config", root / "edit.toml", "--lora", "none")
    assert answer.status == 0, answer.err
    assert not (output / "report.html").exists()
    assert not (output / "report.json").exists()
    answer = run("evaluate", root)
    assert answer.status == 0, answer.err
    assert report(output)["means"]["outside_psnr"] == "identical"
    # edited.mp4 has the original's size, four times as many pixels.
    (output / "edited.mkv").unlink()
    assert run("evaluate", root).status == 0
    assert report(output)["means"]["outside_psnr"] > 35
