"""demo: one edit from start to end on a rendered clip, by the small base that ships along."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from maskora import devices
from maskora.app.prepare import prepare_workspace
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.errors import UserError
from maskora.masks.files import read_labels, write_labels
from maskora.miniature.world import Backdrop, Look, Scene, Sprite, SpriteMotion, Wave, render
from maskora.system import WINDOWS, quoted
from maskora.video.composite import contact_sheet
from maskora.video.fit import unfit_mask
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4

FRAMES, SIDE, RATE = 9, 384, Fraction(6)  # side in pixels
KEYFRAME = FRAMES - 1
BLUE, PINK, DRIFT = 0.6, 0.95, -0.17  # hues in turns, and turns per beat: pink becomes violet
SPRITE = 2  # whose label it is
COLUMNS, WIDTH, ROUNDS = 5, 1300, 4  # of demo.png, in frames and pixels; of demo.mp4
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
            SpriteMotion((0.75, 0.77), (0.06, 0.0), angle=0.4, spin=-0.8, pulse=0.0),
            radius=0.06,
        ),
        Sprite(
            Look("square", "halves", BLUE),
            SpriteMotion((0.33, 0.42), (0.30, -0.06), angle=0.3, spin=1.6, pulse=0.0),
            radius=0.19,
        ),
    ),
)
EDITED = SCENE.with_look(SPRITE - 1, replace(SCENE.sprites[SPRITE - 1].look, hue=PINK, drift=DRIFT))
SETTINGS = {
    "model.family": "miniature",
    "model.path": "miniature",
    "model.dtype": "float32",
    "video.size": "64x64",
    "video.frames": FRAMES,
    "prompt.caption": "a blue square",
    "prompt.edited_caption": "a pink square",
    "optimizer.type": "adamw",
    "optimizer.lr": 3e-3,
    "adapter.rank": 8,
    "adapter.alpha": 8,
    "motion.window": "full",
    "motion.steps": 240,
    "appearance.conditioning": "anchored",
    "appearance.motion_share": 0.05,
    "appearance.steps": 90,
    "transfer.attention": "qk",
    "transfer.attention_share": 0.8,
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

By hand, as it were, the blue square became pink in frame 0 and violet in frame {keyframe}. Every
frame after frame 0 was made; of frame {keyframe} the look alone was learned.
All is soft because the model that ships with maskora is small (docs/miniature.md). With a real one,
your own clip, and your own image editor:

  maskora prepare VIDEO my-edit --box {box} --base configs/wan2.1-i2v-480p.toml\
{joined}--caption "what the video shows" --edited-caption "what the edited frame shows"
  # edit my-edit/source/00000.png in any image editor, save it as my-edit/edits/00000.png
  python train.py --config my-edit/edit.toml
  python infer.py --config my-edit/edit.toml"""


class DemoClip:
    """The demo's folder but for its workspace: a video, its masks, and the truth."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder / ".maskora-demo"  # the folder is ours
        self.video = folder / "clip.mp4"
        self.masks = folder / "masks"
        self.truth = folder / "truth"

    def truth_frame(self, frame: int) -> Path:
        """The true edited frame."""
        return self.truth / f"{frame:05d}.png"


def run_demo(folder: Path, say: Callable[[str], None]) -> None:
    """Render a clip, edit two of its frames, train, infer, judge; or go on where it stands.

    Args:
        say: takes lines for the person.
    """
    clip, workspace = DemoClip(folder), Workspace.open(folder / "workspace")
    if folder.exists() and not clip.marker.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} already holds something; name another folder: maskora demo DIR")
    folder.mkdir(parents=True, exist_ok=True)
    clip.marker.touch()
    from maskora.app.evaluate import evaluate_result
    from maskora.app.infer import infer_clip
    from maskora.app.train import train_stages

    say("1/6  a clip: a blue square turns and moves before a background that moves, too")
    if not clip.video.exists():
        write_clip(clip)
    say("2/6  maskora prepare: frames, and the box in which the edit is")
    if not workspace.config.exists():
        lines = prepare_workspace(
            clip.video, workspace.root, clip.masks, None, None, SETTINGS, [], overwrite=False
        )
        say("\n".join(lines))
    say(f"3/6  the edit: the square is pink in frame 0, violet in frame {KEYFRAME}")
    for frame in (0, KEYFRAME):
        write_png(workspace.edited_frame(None, frame, ".png"), read_image(clip.truth_frame(frame)))
    config = load_config(workspace.config)
    devices.for_small_models()
    say("4/6  train.py: motion from the source, then the look from the later edited frame")
    train_stages(config, workspace, "all", None, resume=True)
    say("5/6  infer.py: the edited clip, everything outside the box locked")
    infer_clip(config, workspace, None, None, None, [])
    say("6/6  maskora evaluate: against the truth, which only a rendered clip has")
    say("\n".join(evaluate_result(workspace.root, None, None, clip.truth, None, None, None)))
    say(_closing(*write_pictures(folder, clip, workspace), workspace.output_dir(None, None)))


def _closing(picture: Path, video: Path, output: Path) -> str:
    return CLOSING.format(
        picture=picture,
        video=video,
        edited=output / "edited.mp4",
        report=output / "report.html",
        keyframe=KEYFRAME,
        box=quoted("X,Y,W,H"),
        joined=" " if WINDOWS else " \\\n      ",
    )


def write_clip(clip: DemoClip) -> None:
    """Render masks, truth, and last the video: where it is, all is."""
    source, wanted, empty = (
        render(scene, FRAMES, SIDE) for scene in (SCENE, EDITED, SCENE.without(SPRITE - 1))
    )
    for frame in range(FRAMES):
        name = f"{frame:05d}.png"
        for folder, shown in ((clip.masks, source), (clip.truth / "masks", wanted)):
            write_labels(folder / name, (shown.labels_THW[frame] == SPRITE).astype("uint8"))
        write_png(clip.truth_frame(frame), wanted.frames_THWC[frame])
        write_png(clip.truth / "background" / name, empty.frames_THWC[frame])
    write_mp4(clip.video, iter(source.frames_THWC), RATE)


def write_pictures(folder: Path, clip: DemoClip, workspace: Workspace) -> tuple[Path, Path]:
    """Write demo.png and demo.mp4, and return their paths.

    The picture's rows: the source with its box, the frames edited by hand, the result, the truth.
    """
    placement = workspace.read_source().placement
    sources = list(read_frames(probe(clip.video)))
    results = list(read_frames(probe(workspace.output_dir(None, None) / "edited.mp4")))
    truths = [read_image(clip.truth_frame(n)) for n in range(FRAMES)]
    boxes = [
        unfit_mask(read_labels(workspace.mask(n)) > 0, placement).astype(np.uint8)
        for n in range(FRAMES)
    ]
    blank_HWC, no_box_HW = np.full_like(sources[0], 24), np.zeros_like(boxes[0])
    chosen = np.linspace(0, FRAMES - 1, COLUMNS).round().astype(int).tolist()
    cells = [(sources[n], boxes[n], f"source {n}") for n in chosen]
    cells += [
        (truths[n], no_box_HW, f"edited by hand {n}")
        if n in (0, KEYFRAME)
        else (blank_HWC, no_box_HW, "")
        for n in chosen
    ]
    cells += [(results[n], no_box_HW, f"maskora {n}") for n in chosen]
    cells += [(truths[n], no_box_HW, f"the truth {n}") for n in chosen]
    picture, video = folder / "demo.png", folder / "demo.mp4"
    pictures, masks, names = zip(*cells, strict=True)
    write_png(picture, contact_sheet(pictures, masks, names, columns=COLUMNS, width=WIDTH))
    captions = ["source", "maskora", "the truth"]
    moving = [
        contact_sheet(views, [box_HW, no_box_HW, no_box_HW], captions, columns=3, width=1180)
        for *views, box_HW in zip(sources, results, truths, boxes, strict=True)
    ]
    write_mp4(video, iter(moving * ROUNDS), RATE)
    return picture, video
