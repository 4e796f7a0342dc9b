"""The demo's clip and what its edit must become: rendered, so the truth of every frame is known."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from maskora.masks.files import write_labels
from maskora.miniature.scene import Backdrop, Look, Motion, Scene, Sprite, Wave
from maskora.miniature.world import Clip, render
from maskora.video.images import write_png
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
