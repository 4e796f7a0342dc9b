"""An edited frame's look carried to a later frame, by one short sample of the base."""

import numpy as np

from maskora.app.edits import Clip, Edit
from maskora.app.fingerprints import LoraChoice
from maskora.app.generate import encode, generate
from maskora.app.infer import choose_loras, read_inputs
from maskora.app.open_base import Base, open_base
from maskora.app.outputs import Run
from maskora.app.passages import passage_of
from maskora.app.workspace import Workspace, working
from maskora.config import Config
from maskora.errors import UserError
from maskora.latents import TensorCache, decode_video
from maskora.memory.report import render
from maskora.method.conditioning import to_bytes
from maskora.method.segments import HELD, Segment


def carried_frame(config: Config, workspace: Workspace, edit: str | None, frame: int) -> np.ndarray:
    """What the base makes of a frame, (H, W, 3) uint8, when it is shown an edited one before it.

    The nearest edited frame before it is its anchor, as in a segment of a long clip that goes on
    (see `maskora.method.segments`); with it the base is shown that frame and three around it.

    Raises:
        UserError: it is the first frame, the workspace is not complete, or nothing is trained and
            `inference.lora` is not "none".
    """
    if frame == 0:
        raise UserError("frame 0 is where a look is carried from: edit it yourself")
    with working(workspace):
        clip, edited, original = read_inputs(config, workspace, edit, [])
        base = open_base(config, workspace, clip.source, "infer")
        plan = render([base.plan])
        run = Run(config, workspace, clip, edited, edit, original, base.model, plan)
        loras = choose_loras(run, [])
        base.log_plan()
        with base.explaining_out_of_memory():
            frames_THWC, segment = _sampled(run, base, loras, frame)
    return np.asarray(frames_THWC[segment.led + frame - segment.start])


def anchored(clip: Clip, edited: Edit, frame: int) -> Segment:
    """The segment of four frames with a frame in it, and the edited frame that it is shown."""
    anchor = max(number for number in edited.all if number < frame)
    start = max(anchor + 1, min(frame, clip.source.frames - HELD))
    return Segment(start, min(start + HELD, clip.source.frames), anchor=anchor)


def _sampled(
    run: Run, base: Base, loras: list[LoraChoice], frame: int
) -> tuple[np.ndarray, Segment]:
    """All that the base was shown, generated."""
    config, model, cache = run.config, run.model, TensorCache(run.workspace.cache_dir)
    segment = anchored(run.clip, run.edited, frame)
    earlier = {n: one for n, one in run.edited.keyframes.items() if n < frame}
    nothing_THWC = np.zeros((0, *run.clip.frames_THWC.shape[1:]), np.uint8)
    edited = Edit(run.edited.first, earlier)
    shown = passage_of(segment, run.clip, edited, nothing_THWC, model.longest)
    encoded, seed = encode(config, shown, model, cache), config.inference.seed
    sampled = generate(
        config, model, {seed: encoded}, loras, cache, lambda seconds: None, lambda *done: None
    )
    return to_bytes(decode_video(sampled[seed], model)).numpy(), segment
