"""A prepared workspace of the rolling ball, small and fast to train."""

from fractions import Fraction
from pathlib import Path

from maskora.app.prepare import prepare_workspace
from maskora.app.workspace import Workspace
from maskora.video.write import write_mp4
from tests.ball import draw_frame

FRAMES = 9
SETTINGS = [
    "model.dtype=float32", "optimizer.type=adamw", "optimizer.lr=1e-3", "motion.window=5",
    "motion.steps=2", "appearance.steps=2", "training.checkpoint_every=1", "inference.steps=2",
]  # fmt: skip


def prepare_ball(folder: Path, model: Path, *settings: str) -> Workspace:
    """Nine frames of 320x192 at 160x96, the region around the ball, nothing edited yet."""
    clip = folder / "ball.mp4"
    write_mp4(clip, (draw_frame(n, (60, 120, 220)) for n in range(FRAMES)), Fraction(16))
    prepare_workspace(
        video=clip,
        root=folder / "ws",
        mask=None,
        box="16,64,120,96",
        base=None,
        given={
            "model.path": str(model),
            "video.size": "160x96",
            "video.frames": FRAMES,
            "prompt.caption": "a blue ball",
            "prompt.edited_caption": "an orange ball",
        },
        overrides=[*SETTINGS, *settings],
        overwrite=False,
    )
    return Workspace(folder / "ws")
