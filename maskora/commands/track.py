"""track: from clicks to masks, without a window."""

from contextlib import closing

import numpy as np
from tqdm import tqdm

from maskora.commands.hold import only_one
from maskora.commands.tracking import (
    load_frames,
    load_markup,
    open_configured_tracker,
    parse_prompts,
    refuse_painted,
    save_masks,
    store_markup,
)
from maskora.config import Config
from maskora.config.clip import Tracker
from maskora.errors import UserError
from maskora.masks.markup import Markup
from maskora.masks.prompts import Prompt
from maskora.system import quoted
from maskora.workspace import Source, Workspace


def track_workspace(config: Config, workspace: Workspace, overwrite: bool) -> None:
    """Follow what [tracker] points at through the clip, and write masks/.

    Args:
        overwrite: masks that were painted by hand may be replaced.

    Raises:
        UserError: nothing is pointed at, or a point lies outside, or the tracker cannot be had.
    """
    source = workspace.read_source()
    with only_one(workspace):
        if not overwrite:
            refuse_painted(workspace, source)
        _tell_replaced(config, workspace)
        prompts = _prompts(config, workspace, source)
        frames_THWC = load_frames(workspace, source)
        empty_THW = np.zeros(frames_THWC.shape[:3], np.uint8)
        markup = Markup(empty_THW, empty_THW.copy())
        with closing(open_configured_tracker(config, workspace, frames_THWC)) as tracker:
            print(f"tracker: {tracker.label}")
            settings = config.tracker
            if settings.type == "simple" and settings.checkpoint != Tracker().checkpoint:
                print('note: tracker.checkpoint has no effect here: tracker.type is "simple"')
            markup.point(tracker, prompts)
            for _ in tqdm(markup.follow(tracker), desc="track", total=markup.steps()):
                pass
        labels_THW, notes = save_masks(workspace, source, markup, config.mask, overwrite)
        store_markup(workspace, source, markup)
    _tell(workspace, labels_THW, notes)


def _prompts(config: Config, workspace: Workspace, source: Source) -> list[Prompt]:
    """Those of [tracker]; else those that were clicked in the window."""
    prompts = parse_prompts(config.tracker.clicks, config.tracker.boxes, source)
    prompts = prompts or list(load_markup(workspace, source).prompts)
    if not prompts:
        raise UserError(
            f"what is to be followed? Give --click FRAME,X,Y,+ (a point of the object, in pixels "
            f"of the original video) or --box FRAME,X,Y,W,H, or click it: maskora gui "
            f"{quoted(workspace.root)}"
        )
    return prompts


def _tell_replaced(config: Config, workspace: Workspace) -> None:
    """Earlier clicks give way to those of [tracker]: said, so that nobody misses them."""
    earlier = workspace.read_tracking()
    given = len(config.tracker.clicks) + len(config.tracker.boxes)
    if given and earlier is not None and earlier.prompts:
        print(f"note: {len(earlier.prompts)} earlier clicks and boxes are replaced by {given}")


def _tell(workspace: Workspace, labels_THW: np.ndarray, notes: list[str]) -> None:
    for note in notes:
        print(f"note: {note}")
    objects = len(np.unique(labels_THW[labels_THW > 0]))
    print(
        f"{workspace.masks_dir}: {objects} object{'s' if objects > 1 else ''}, "
        f"{float(np.mean(labels_THW > 0)):.0%} of the picture inside the mask"
    )
    print(f"look at  {workspace.overview}")
