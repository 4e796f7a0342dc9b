"""To remove a thing and to add one, from the video to the result, with a tiny base."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from maskora import devices
from maskora.app.demo import SETTINGS, DemoClip, write_clip
from maskora.app.infer import infer_clip
from maskora.app.prepare import prepare_workspace
from maskora.app.train import train_stages
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.masks.files import read_labels, write_labels
from maskora.masks.shapes import silhouette_box
from maskora.miniature.world import pose_of, raster, render
from maskora.training.report import read_metrics
from maskora.video.fit import fit_image
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4
from tests.app.conftest import FAST, Run, at, ok, refused
from tests.sprite_scene import BACKDROP, SCENE, SPRITE

SIZE, FRAMES = 96, 9


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scene as video.mp4, and the sprite's masks."""
    folder, rendered = tmp_path_factory.mktemp("scene"), render(SCENE, FRAMES, SIZE)
    write_mp4(folder / "video.mp4", iter(rendered.frames_THWC), Fraction(16))
    for number, labels_HW in enumerate(rendered.labels_THW):
        write_labels(folder / "masks" / f"{number:05d}.png", labels_HW)
    return folder


@pytest.fixture
def prepare(clip: Path, tiny_model: Path, tmp_path: Path, run: Run) -> Run:
    def call(*options: object) -> object:
        return run(
            "prepare", clip / "video.mp4", tmp_path / "edit", "--size", f"{SIZE}x{SIZE}",
            "--frames", FRAMES, "--caption", "a square", "--edited-caption", "ripples",
            "--set", f"model.path={tiny_model}", *FAST, "--set", "mask.smooth=1", *options,
        )  # fmt: skip

    return call


def trained_on(workspace: Workspace) -> set[str]:
    entries = read_metrics(workspace.run_dir("motion") / "metrics.jsonl")
    return {name for entry in entries for name in entry.samples}


def middle(labels_HW: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = silhouette_box(labels_HW > 0)
    return np.array([x0 + x1, y0 + y1]) / 2


def result(workspace: Workspace) -> np.ndarray:
    return np.stack(list(read_frames(probe(workspace.output_dir(None, None) / "edited.mkv"))))


def test_a_thing_is_removed(prepare: Run, clip: Path, run: Run, tmp_path: Path) -> None:
    answer = ok(prepare("--mask", clip / "masks", "--task", "remove"))
    workspace = Workspace.open(tmp_path / "edit")
    first = workspace.edits_dir / "00000.png"
    assert f"look at  {first}" in answer.out
    truth_HWC = render(SCENE.without(0), 1, SIZE).frames_THWC[0]
    hidden_HW = read_labels(clip / "masks" / "00000.png") > 0
    apart = read_image(first)[hidden_HW].astype(float) - truth_HWC[hidden_HW]
    assert np.abs(apart).mean() < 12
    ok(run("train", *at(workspace.root)))
    assert all("moved" in name for name in trained_on(workspace))
    assert "done already" in ok(run("train", *at(workspace.root))).err
    ok(run("infer", *at(workspace.root)))
    source = np.stack([read_image(workspace.source_frame(n)) for n in range(FRAMES)])
    kept = np.stack([read_labels(workspace.mask(n)) == 0 for n in range(FRAMES)])
    assert np.array_equal(result(workspace)[kept], source[kept])
    # Set back, the LoRA is another one.
    assert (
        "retraining: [motion] changed"
        in ok(run("train", *at(workspace.root, "motion.task=change"))).err
    )


@pytest.mark.slow
def test_what_was_learned_of_background_is_painted_where_the_thing_was(tmp_path: Path) -> None:
    devices.for_small_models()
    clip, found = DemoClip(tmp_path), {}
    write_clip(clip)
    settings = SETTINGS | {"motion.task": "remove", "motion.steps": 200, "motion.augment": "none"}
    for lora in ("none", "trained"):
        workspace = Workspace.open(tmp_path / lora)
        given = settings | {"inference.lora": lora}
        prepare_workspace(clip.video, workspace.root, clip.masks, None, None, given, [], False)
        config, placement = load_config(workspace.config), workspace.read_source().placement
        truth_THWC = np.stack([
            fit_image(read_image(clip.truth / "background" / f"{n:05d}.png"), placement)
            for n in range(FRAMES)
        ])  # fmt: skip
        write_png(workspace.edits_dir / "00000.png", truth_THWC[0])
        train_stages(config, workspace, "motion", None, resume=False)
        infer_clip(config, workspace, None, None, None, [])
        thing_THW = np.stack([read_labels(workspace.silhouette(n)) > 0 for n in range(FRAMES)])
        apart = result(workspace)[thing_THW].astype(float) - truth_THWC[thing_THW]
        found[lora] = float(10 * np.log10(255**2 / np.mean(apart**2)))
    print(found)
    assert found["trained"] > found["none"] + 5


def test_a_first_frame_of_ones_own_is_never_written_over(
    prepare: Run, clip: Path, run: Run, tmp_path: Path
) -> None:
    own_HWC = np.full((SIZE, SIZE, 3), 90, np.uint8)
    edits = tmp_path / "edit" / "edits"
    write_png(edits / "0.png", own_HWC)
    ok(prepare("--mask", clip / "masks", "--task", "remove"))
    assert [path.name for path in edits.iterdir()] == ["0.png"]
    assert np.array_equal(read_image(edits / "0.png"), own_HWC)
    (edits / "0.png").unlink()
    root, settings = tmp_path / "edit", ("inference.lora=none", "inference.steps=1")
    assert "infer.py makes it" in ok(run("check", *at(root))).out
    refused(run("infer", *at(root, "motion.task=change", *settings)), "00000.png is missing")
    assert "frame 0 without what is inside the mask" in ok(run("infer", *at(root, *settings))).err
    assert [path.name for path in edits.iterdir()] == ["00000.png"]


def test_something_is_added_that_moves_with_the_background(
    prepare: Run, run: Run, tmp_path: Path
) -> None:
    ok(prepare("--box", "52,60,24,16", "--task", "add"))
    workspace = Workspace.open(tmp_path / "edit")
    way = np.array(BACKDROP.pan) * SIZE * (FRAMES - 1) / 8
    first, last = (read_labels(workspace.silhouette(n)) for n in (0, FRAMES - 1))
    assert np.allclose(middle(last) - middle(first), way, atol=2)
    picture_HWC = read_image(workspace.source_frame(0)).copy()
    picture_HWC[62:74, 54:74] = (220, 40, 40)
    write_png(workspace.edits_dir / "00000.png", picture_HWC)
    ok(run("train", *at(workspace.root, "motion.steps=6")))
    seen = trained_on(workspace)
    assert any("moved" in name for name in seen)
    assert any("moved" not in name for name in seen)
    ok(run("infer", *at(workspace.root)))
    assert result(workspace).shape == (FRAMES, SIZE, SIZE, 3)


def test_something_is_added_that_moves_with_a_thing(prepare: Run, tmp_path: Path) -> None:
    pose = pose_of(SPRITE.motion, SPRITE.radius, raster(FRAMES, SIZE)[0], SIZE)
    x, y = pose.centre_T2[0]
    ok(prepare("--box", f"{x - 8},{y - 24},16,12", "--task", "add", "--follow", f"{x},{y}"))
    workspace = Workspace.open(tmp_path / "edit")
    first, last = (read_labels(workspace.silhouette(n)) for n in (0, FRAMES - 1))
    way = pose.centre_T2[-1] - pose.centre_T2[0]
    assert np.allclose(middle(last) - middle(first), way, atol=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--follow", "background"), ("--follow background", "--box")),
        (("--box", "8,8,16,16", "--follow", "there"), ("--follow there", "X,Y")),
        (("--box", "8,8,16,16", "--follow", "500,20"), ("500,20", "outside")),
    ],
)
def test_what_cannot_be_followed_is_refused(
    prepare: Run, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(prepare("--task", "add", *options), *words)
    assert not (tmp_path / "edit").exists()
