"""To remove a thing and to add one, from the video to the result, with a tiny base."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskora import devices
from maskora.app import demo
from maskora.app.demo import SETTINGS, DemoClip, write_clip
from maskora.app.infer import infer_clip
from maskora.app.prepare import prepare_workspace
from maskora.app.train import train_stages
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.masks.files import read_labels, write_labels
from maskora.masks.shapes import silhouette_box
from maskora.miniature.world import (
    Look,
    Scene,
    Sprite,
    SpriteMotion,
    pose_of,
    raster,
    render,
    tones,
)
from maskora.training.report import read_metrics
from maskora.video.fit import fit_image
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4
from tests.app.conftest import FAST, Run, at, ok, refused
from tests.sprite_scene import BACKDROP, SCENE, SPRITE

SIZE, FRAMES = 96, 9
ORANGE = 0.08
FAR = Scene(  # a sprite that comes far, before the demo's background
    demo.SCENE.backdrop,
    (
        Sprite(
            Look("square", "halves", None),
            SpriteMotion((0.72, 0.78), (0.06, 0.0), angle=0.4, spin=-0.8, pulse=0.0),
            radius=0.08,
        ),
        Sprite(
            Look("square", "halves", demo.BLUE),
            SpriteMotion((0.27, 0.50), (0.42, -0.20), angle=0.3, spin=2.0, pulse=0.0),
            radius=0.19,
        ),
    ),
)


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


def generated(
    root: Path, video: Path, task: str, lora: str, first_HWC: np.ndarray, **where: object
) -> tuple[Workspace, np.ndarray]:
    """The edited clip at the miniature's size, from a LoRA of a short training, or from none."""
    devices.for_small_models()
    given = SETTINGS | {
        "motion.task": task, "inference.lora": lora, "motion.steps": 200, "optimizer.lr": 1e-3,
        "transfer.attention": "none", "prompt.caption": "a", "prompt.edited_caption": "a",
    }  # fmt: skip
    options = {"mask": None, "box": None, **where}
    prepare_workspace(video, root, base=None, given=given, overrides=[], overwrite=False, **options)
    workspace = Workspace.open(root)
    config, placement = load_config(workspace.config), workspace.read_source().placement
    write_png(workspace.edits_dir / "00000.png", fit_image(first_HWC, placement))
    train_stages(config, workspace, "motion", None, resume=False)
    infer_clip(config, workspace, None, None, None, [])
    return workspace, result(workspace)


def at_size(workspace: Workspace, frames_THWC: np.ndarray) -> np.ndarray:
    placement = workspace.read_source().placement
    return np.stack([fit_image(frame_HWC, placement) for frame_HWC in frames_THWC]).astype(float)


@pytest.mark.slow
def test_background_is_painted_where_the_thing_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, found = DemoClip(tmp_path), {}
    monkeypatch.setattr(demo, "SCENE", FAR)
    write_clip(clip)
    truth_THWC = render(FAR.without(demo.SPRITE - 1), FRAMES, demo.SIDE).frames_THWC
    for lora in ("none", "trained"):
        workspace, shown_THWC = generated(
            tmp_path / lora, clip.video, "remove", lora, truth_THWC[0], mask=clip.masks
        )
        thing_THW = np.stack([read_labels(workspace.silhouette(n)) > 0 for n in range(FRAMES)])
        apart = (shown_THWC - at_size(workspace, truth_THWC))[thing_THW]
        found[lora] = float(10 * np.log10(255**2 / np.mean(apart**2)))
    print("PSNR where the thing was, in dB:", found)
    assert found["trained"] > found["none"] + 5


@pytest.mark.slow
def test_a_new_thing_stays_where_it_was_put(tmp_path: Path) -> None:
    scene, side = FAR.without(demo.SPRITE - 1), demo.SIDE
    x, y, radius = 0.4, 0.45, 0.13
    motion = SpriteMotion((x, y), scene.backdrop.pan, 0.3, 0.0, 0.0)
    thing = Sprite(Look("disc", "halves", ORANGE), motion, radius)
    without = render(scene, FRAMES, side).frames_THWC
    wanted = render(Scene(scene.backdrop, (*scene.sprites, thing)), FRAMES, side)
    write_mp4(tmp_path / "clip.mp4", iter(without), demo.RATE)
    box = f"{(x - radius) * side},{(y - radius) * side},{2 * radius * side},{2 * radius * side}"
    labels_THWC = np.repeat((wanted.labels_THW == 2)[..., None] * np.uint8(255), 3, axis=-1)
    found = {}
    for lora in ("none", "trained"):
        workspace, shown_THWC = generated(
            tmp_path / lora, tmp_path / "clip.mp4", "add", lora, wanted.frames_THWC[0], box=box
        )
        off_background = np.abs(shown_THWC - at_size(workspace, without)).sum(axis=-1)
        off_tones = [np.abs(shown_THWC - 255 * tone).sum(axis=-1) for tone in tones(ORANGE)]
        seen_THW = np.minimum(*off_tones) < off_background
        true_THW = at_size(workspace, labels_THWC)[..., 0] > 128
        both, either = ((f(seen_THW, true_THW))[1:].sum() for f in (np.logical_and, np.logical_or))
        found[lora] = float(both / either)
    print("overlap of the thing with its true place:", found)
    assert found["trained"] > found["none"] + 0.1


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
    assert [path.name for path in edits.glob("[0-9]*")] == ["00000.png"]


def test_a_first_frame_that_was_made_is_made_anew_for_another_mask(
    prepare: Run, clip: Path, tmp_path: Path
) -> None:
    for number in range(FRAMES):
        labels_HW = read_labels(clip / "masks" / f"{number:05d}.png")
        write_labels(
            tmp_path / "wide" / f"{number:05d}.png", cv2.dilate(labels_HW, np.ones((9, 9)))
        )
    made = tmp_path / "edit" / "edits" / "00000.png"
    ok(prepare("--mask", clip / "masks", "--task", "remove"))
    first = made.read_bytes()
    again = prepare("--mask", clip / "masks", "--task", "remove", "--overwrite")
    assert "without what is inside" not in ok(again).out, "the mask is the same"
    answer = ok(prepare("--mask", tmp_path / "wide", "--task", "remove", "--overwrite"))
    assert "frame 0 without what is inside the mask" in answer.out
    assert made.read_bytes() != first
    own_HWC = np.full((SIZE, SIZE, 3), 90, np.uint8)
    write_png(made, own_HWC)
    ok(prepare("--mask", clip / "masks", "--task", "remove", "--overwrite"))
    assert np.array_equal(read_image(made), own_HWC), "a person's stays"


def test_the_first_frame_stays_as_it_is_where_the_thing_comes_later(
    prepare: Run, clip: Path, tmp_path: Path
) -> None:
    for number in range(FRAMES):
        labels_HW = read_labels(clip / "masks" / f"{number:05d}.png")
        write_labels(tmp_path / "late" / f"{number:05d}.png", labels_HW * (number > 3))
    answer = ok(prepare("--mask", tmp_path / "late", "--task", "remove"))
    workspace = Workspace.open(tmp_path / "edit")
    assert "frame 0 as it is" in answer.out
    made_HWC = read_image(workspace.edits_dir / "00000.png")
    assert np.array_equal(made_HWC, read_image(workspace.source_frame(0)))


def test_a_picture_that_is_all_mask_leaves_nothing_to_go_by(prepare: Run, tmp_path: Path) -> None:
    ok(prepare("--task", "remove", "--set", "mask.shape=full"))
    assert not any((tmp_path / "edit" / "edits").iterdir())


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
