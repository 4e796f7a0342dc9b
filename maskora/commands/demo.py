"""demo: one edit from start to end on a rendered clip, by the small base that ships along."""

from fractions import Fraction
from pathlib import Path

from maskora import devices
from maskora.commands.demo_clip import FRAMES, KEYFRAME, DemoClip, write_clip
from maskora.commands.demo_pictures import write_pictures
from maskora.commands.prepare import prepare_workspace
from maskora.config import load_config
from maskora.errors import UserError
from maskora.system import WINDOWS, quoted
from maskora.video.images import read_image, write_png
from maskora.workspace import Workspace

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
    from maskora.commands.evaluate import evaluate_result
    from maskora.commands.infer import infer_clip
    from maskora.commands.train import train_stages

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
