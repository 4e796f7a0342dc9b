"""demo: the whole job on a clip made here, with a tiny random model, so that it runs anywhere."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from maskora.commands.prepare import prepare_workspace
from maskora.config import load_config
from maskora.errors import UserError
from maskora.masks.files import write_labels
from maskora.video.images import read_image, write_png
from maskora.video.write import write_mp4
from maskora.workspace import Workspace

WIDTH, HEIGHT, FRAMES, RATE = 320, 192, 33, Fraction(16)
RADIUS, KEYFRAME = 26, 24
SETTINGS = [
    'model.dtype="float32"',
    'optimizer.type="adamw"',
    "optimizer.lr=1e-3",
    "motion.steps=30",
    "appearance.steps=20",
    "inference.steps=8",
    "inference.lossless=true",
]
CLOSING = """
What you see: the box follows the ball, its outside is the source to the last bit, its inside was
painted by a model with RANDOM weights - noise. The same commands with a real model paint the edit:

  maskora prepare VIDEO my-edit --box X,Y,W,H --base configs/wan2.1-i2v-480p.toml \\
      --caption "what the video shows" --edited-caption "what the edited frame shows"
  # edit my-edit/source/00000.png in any image editor, save it as my-edit/edits/00000.png
  python train.py --config my-edit/edit.toml
  python infer.py --config my-edit/edit.toml

Result:   {edited}
Compare:  {comparison}   (source | mask | edited)
At once:  {strip}
"""


def run_demo(folder: Path) -> None:
    """Make a clip and a tiny model, edit two frames, train, infer; or go on where it stands."""
    clip, workspace = folder / "ball.mp4", Workspace(folder / "workspace")
    if folder.exists() and any(folder.iterdir()) and not clip.exists():
        raise UserError(f"{folder} already holds something; name another folder: maskora demo DIR")
    from maskora.commands.infer import infer_clip
    from maskora.commands.train import train_stages

    print("1/5  a clip of a rolling ball, and a tiny model with random weights")
    if not clip.exists():
        _make_parts(folder, clip)
    print("2/5  maskora prepare")
    if not workspace.config.exists():
        _prepare(folder, clip, workspace)
    print("3/5  the edit: an orange ball in frame 0, which is pink by frame 24")
    _paint(workspace, 0, (240, 140, 30))
    _paint(workspace, KEYFRAME, (235, 90, 170))
    config = load_config(workspace.config)
    print("4/5  train.py: motion from the source, then appearance from the keyframe")
    train_stages(config, workspace, "all", None, resume=True)
    print("5/5  infer.py: the edited clip, with its background locked")
    infer_clip(config, workspace, None, None, None, [])
    output = workspace.output_dir(None, None)
    print(
        CLOSING.format(
            edited=output / "edited.mp4",
            comparison=output / "comparison.mp4",
            strip=output / "strip.png",
        )
    )


def _make_parts(folder: Path, clip: Path) -> None:
    """The masks, the model, and last the clip: where it is, all is."""
    from maskora.models.tiny import write_tiny_model

    for number in range(FRAMES):
        write_labels(folder / "masks" / f"{number:05d}.png", draw_mask(number))
    if not (folder / "model").exists():
        write_tiny_model(folder / "model")
    write_mp4(clip, (draw_frame(n, (60, 120, 220)) for n in range(FRAMES)), RATE)


def _prepare(folder: Path, clip: Path, workspace: Workspace) -> None:
    told = prepare_workspace(
        video=clip,
        root=workspace.root,
        mask=folder / "masks",
        box=None,
        base=None,
        given={
            "model.path": str((folder / "model").resolve()),
            "video.size": f"{WIDTH}x{HEIGHT}",
            "video.frames": FRAMES,
            "prompt.caption": "a blue ball rolls over a meadow",
            "prompt.edited_caption": "an orange ball rolls over a meadow",
        },
        overrides=SETTINGS,
        overwrite=False,
    )
    print("\n".join(told))


def draw_frame(number: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A frame of the demo clip: a striped ball over a drifting meadow; (H, W, 3) uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    drift = x + 2.0 * number
    meadow = 96 + 22 * np.sin(drift / 9) * np.cos(y / 7) + 18 * np.sin((drift + 2 * y) / 31)
    frame = np.stack([0.55 * meadow, meadow, 0.45 * meadow], axis=-1)
    centre_x, centre_y = ball_centre(number)
    across, down = (x - centre_x) / RADIUS, (y - centre_y) / RADIUS
    angle = number / 5
    stripe = np.cos(angle) * across + np.sin(angle) * down
    shade = (1.0 - 0.45 * (across**2 + down**2)) * np.where(np.abs(stripe) < 0.3, 1.35, 0.85)
    ball = np.asarray(colour, np.float32) * shade[..., None]
    edge = np.clip((1 - np.hypot(across, down)) * RADIUS + 0.5, 0, 1)[..., None]
    return np.clip(frame * (1 - edge) + ball * edge, 0, 255).astype(np.uint8)


def draw_mask(number: int) -> np.ndarray:
    """The ball's silhouette, (H, W) uint8, 1 inside."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y = ball_centre(number)
    cv2.circle(mask, (round(x), round(y)), RADIUS + 1, 1, thickness=-1)
    return mask


def ball_centre(number: int) -> tuple[float, float]:
    """Where the ball is in a frame, in pixels."""
    share = number / (FRAMES - 1)
    return 50 + 215 * share, 110 - 45 * float(np.sin(np.pi * share))


def _paint(workspace: Workspace, number: int, colour: tuple[int, int, int]) -> None:
    """Do what a person does in an image editor: recolour the ball in one frame."""
    source = read_image(workspace.source_frame(number))
    ball = draw_mask(number)[..., None] > 0
    edited = np.where(ball, draw_frame(number, colour), source)
    write_png(workspace.edits_dir / f"{number:05d}.png", edited)
