"""demo: one edit from start to end on a rendered clip, by the small base that ships along."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from maskora import devices
from maskora.app.prepare import prepare_workspace
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.errors import UserError
from maskora.masks.files import read_labels, write_labels
from maskora.miniature.world import Backdrop, Clip, Look, Motion, Scene, Sprite, Wave, render
from maskora.system import WINDOWS, quoted
from maskora.video.composite import contact_sheet
from maskora.video.fit import unfit_mask
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4

FRAMES, SIDE = 9, 384  # pixels
KEYFRAME = FRAMES - 1
BLUE, ORANGE, DRIFT = 0.6, 0.08, 0.25  # hues in turns, and turns per beat: orange becomes green
SPRITE = 2  # whose label it is
SCENE = Scene(
    Backdrop(
        colour=(0.42, 0.47, 0.40),
        waves=(
            Wave((1.2, 0.6), 0.1, (0.05, 0.06, 0.03)),
            Wave((-0.7, 1.6), 0.4, (0.04, 0.05, 0.05)),
            Wave((2.0, 0.3), 0.7, (0.03, 0.02, 0.04)),
        ),
        pan=(0.10, 0.03),
    ),
    (
        Sprite(
            Look("square", "halves", None),
            Motion((0.72, 0.78), (0.06, 0.0), angle=0.4, spin=-0.8, pulse=0.0),
            radius=0.08,
        ),
        Sprite(
            Look("square", "halves", BLUE),
            Motion((0.27, 0.50), (0.42, -0.20), angle=0.3, spin=2.0, pulse=0.0),
            radius=0.19,
        ),
    ),
)
EDITED = SCENE.with_look(
    SPRITE - 1,
    replace(SCENE.sprites[SPRITE - 1].look, shape="disc", hue=ORANGE, drift=DRIFT),
)


class DemoClip:
    """The demo's folder but for its workspace: a video, its masks, and the truth."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder / ".maskora-demo"  # the folder is ours
        self.video = folder / "clip.mp4"
        self.masks = folder / "masks"
        self.truth = folder / "truth"

    def truth_frame(self, frame: int) -> Path:
        """What a frame must become."""
        return self.truth / f"{frame:05d}.png"


def write_clip(clip: DemoClip, rate: Fraction) -> None:
    """Render masks, truth, and last the video: where it is, all is."""
    source, wanted = (render(scene, FRAMES, SIDE) for scene in (SCENE, EDITED))
    empty = render(SCENE.without(SPRITE - 1), FRAMES, SIDE)
    for frame in range(FRAMES):
        name = f"{frame:05d}.png"
        _write_mask(clip.masks / name, source, frame)
        write_png(clip.truth_frame(frame), wanted.frames_THWC[frame])
        _write_mask(clip.truth / "masks" / name, wanted, frame)
        write_png(clip.truth / "background" / name, empty.frames_THWC[frame])
    write_mp4(clip.video, iter(source.frames_THWC), rate)


def _write_mask(path: Path, clip: Clip, frame: int) -> None:
    write_labels(path, (clip.labels_THW[frame] == SPRITE).astype("uint8"))


COLUMNS, WIDTH, ROUNDS = 5, 1300, 4


@dataclass(frozen=True)
class Shown:
    """A frame of the clip in all its versions, each (H, W, 3) uint8, and its box (H, W)."""

    number: int
    source_HWC: np.ndarray
    box_HW: np.ndarray
    result_HWC: np.ndarray
    truth_HWC: np.ndarray


def write_pictures(
    folder: Path, clip: DemoClip, workspace: Workspace, rate: Fraction
) -> tuple[Path, Path]:
    """Write demo.png and demo.mp4, and tell where they are."""
    frames = _read(clip, workspace)
    picture, video = folder / "demo.png", folder / "demo.mp4"
    write_png(picture, _picture(frames))
    moving = [_side_by_side(frame) for frame in frames]
    write_mp4(video, iter(moving * ROUNDS), rate)
    return picture, video


def _read(clip: DemoClip, workspace: Workspace) -> list[Shown]:
    placement = workspace.read_source().placement
    sources = read_frames(probe(clip.video))
    results = read_frames(probe(workspace.output_dir(None, None) / "edited.mp4"))
    return [
        Shown(
            number,
            source_HWC,
            unfit_mask(read_labels(workspace.mask(number)) > 0, placement).astype(np.uint8),
            result_HWC,
            read_image(clip.truth_frame(number)),
        )
        for number, (source_HWC, result_HWC) in enumerate(zip(sources, results, strict=True))
    ]


def _picture(frames: Sequence[Shown]) -> np.ndarray:
    """Rows: the source with its box, the frames edited by hand, the result, the truth."""
    numbers = np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)
    chosen = [frames[number] for number in numbers]
    blank = np.full_like(frames[0].source_HWC, 24)
    by_hand = [f.truth_HWC if f.number in (0, KEYFRAME) else blank for f in chosen]
    rows = {
        "source": [f.source_HWC for f in chosen],
        "edited by hand": by_hand,
        "maskora": [f.result_HWC for f in chosen],
        "the truth": [f.truth_HWC for f in chosen],
    }
    cells = [
        (cell, frame.box_HW if name == "source" else np.zeros_like(frame.box_HW),
         "" if cell is blank else f"{name} {frame.number}")
        for name, row in rows.items()
        for cell, frame in zip(row, chosen, strict=True)
    ]  # fmt: skip
    pictures, boxes, captions = zip(*cells, strict=True)
    return contact_sheet(pictures, boxes, captions, columns=COLUMNS, width=WIDTH)


def _side_by_side(frame: Shown) -> np.ndarray:
    views = {
        "source": frame.source_HWC,
        "maskora": frame.result_HWC,
        "the truth": frame.truth_HWC,
    }
    boxes = [frame.box_HW, *[np.zeros_like(frame.box_HW)] * 2]
    return contact_sheet(list(views.values()), boxes, list(views), columns=3, width=1180)


RATE = Fraction(6)
SETTINGS = {
    "model.family": "miniature",
    "model.path": "miniature",
    "model.dtype": "float32",
    "video.size": "64x64",
    "video.frames": FRAMES,
    "prompt.caption": "a blue square",
    "prompt.edited_caption": "an orange disc",
    "optimizer.type": "adamw",
    "optimizer.lr": 1e-3,
    "adapter.rank": 8,
    "adapter.alpha": 8,
    "motion.window": "full",
    "motion.augment": "colour",
    "motion.steps": 600,
    "appearance.conditioning": "anchored",
    "appearance.motion_share": 0.05,
    "appearance.steps": 50,
    "inference.steps": 20,
    "inference.guidance": 1.0,
    "inference.lossless": True,
    "inference.feather": 1.0,
    "mask.smooth": 1,
}
CLOSING = """
Look at    {picture}   (and, moving: {video})
The result {edited}
Its report {report}

By hand, as it were, the blue square became an orange disc in frame 0 and a green one in frame
{keyframe}. Every frame after frame 0 was made; of frame {keyframe} the look alone was learned.
All is soft because the model that ships with maskora is small (docs/miniature.md). With a real one,
your own clip, and your own image editor:

  maskora prepare VIDEO my-edit --box {box} --base configs/wan2.1-i2v-480p.toml\
{joined}--caption "what the video shows" --edited-caption "what the edited frame shows"
  # edit my-edit/source/00000.png in any image editor, save it as my-edit/edits/00000.png
  python train.py --config my-edit/edit.toml
  python infer.py --config my-edit/edit.toml"""


def run_demo(folder: Path) -> None:
    """Render a clip, edit two of its frames, train, infer, judge; or go on where it stands."""
    clip, workspace = DemoClip(folder), Workspace(folder / "workspace")
    if folder.exists() and not clip.marker.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} already holds something; name another folder: maskora demo DIR")
    folder.mkdir(parents=True, exist_ok=True)
    clip.marker.touch()
    from maskora.app.evaluate import evaluate_result
    from maskora.app.infer import infer_clip
    from maskora.app.train import train_stages

    print("1/6  a clip: a blue square turns and moves before a background that moves, too")
    if not clip.video.exists():
        write_clip(clip, RATE)
    print("2/6  maskora prepare: frames, and the box in which the edit is")
    if not workspace.config.exists():
        _prepare(clip, workspace)
    print(f"3/6  the edit: an orange disc in frame 0, a green one in frame {KEYFRAME}")
    for frame in (0, KEYFRAME):
        write_png(workspace.edited_frame(None, frame, ".png"), read_image(clip.truth_frame(frame)))
    config = load_config(workspace.config)
    devices.for_small_models()
    print("4/6  train.py: motion from the source, then the look from the later edited frame")
    train_stages(config, workspace, "all", None, resume=True)
    print("5/6  infer.py: the edited clip, everything outside the box locked")
    infer_clip(config, workspace, None, None, None, [])
    print("6/6  maskora evaluate: against the truth, which only a rendered clip has")
    evaluate_result(workspace.root, None, None, clip.truth, None, None)
    picture, video = write_pictures(folder, clip, workspace, RATE)
    output = workspace.output_dir(None, None)
    print(
        CLOSING.format(
            picture=picture,
            video=video,
            edited=output / "edited.mp4",
            report=output / "report.html",
            keyframe=KEYFRAME,
            box=quoted("X,Y,W,H"),
            joined=" " if WINDOWS else " \\\n      ",
        )
    )


def _prepare(clip: DemoClip, workspace: Workspace) -> None:
    told = prepare_workspace(
        video=clip.video,
        root=workspace.root,
        mask=clip.masks,
        box=None,
        base=None,
        given=SETTINGS,
        overrides=[],
        overwrite=False,
    )
    print("\n".join(told))
