"""A workspace's pictures and words, read and checked: the clip, and one edit of it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskora.app.captions import settle_captions
from maskora.app.masking import load_masks
from maskora.app.workspace import Source, Workspace, check_edit_size, check_video_settings
from maskora.config import Config
from maskora.errors import UserError
from maskora.method.conditioning import to_unit
from maskora.video.composite import composite, feather_alpha
from maskora.video.differences import VISIBLE, Leakage, measure_leakage
from maskora.video.fit import Placement, fit_image
from maskora.video.images import read_image

log = logging.getLogger("maskora")
# Pixels over which the source outside meets the edit inside, in what the model sees. Not
# inference.feather: that one is about the finished frames, and changing it must not retrain.
SPILL_FEATHER = 8.0


@dataclass(frozen=True)
class Clip:
    """The source as prepared.

    Attributes:
        source: what source.json says.
        frames_THWC: uint8 frames at the workspace's size.
        labels_THW: final masks, 0 keep, 1..n objects.
    """

    source: Source
    frames_THWC: np.ndarray
    labels_THW: np.ndarray

    @property
    def placement(self) -> Placement:
        """The frames' place in the original."""
        return self.source.placement

    def video(self) -> Tensor:
        """Pixels in [-1, 1], shape (3, T, H, W)."""
        return to_unit(torch.from_numpy(self.frames_THWC))

    def keep(self) -> Tensor:
        """The keep mask, shape (T, H, W): 1 = keep, 0 = generate."""
        return torch.from_numpy(self.labels_THW == 0).float()


@dataclass(frozen=True)
class EditedFrame:
    """One edited frame.

    Attributes:
        path: the file.
        given_HWC: as the person gave it, at the workspace's or the original's size.
        fitted_HWC: the same at the workspace's size.
        image_HWC: what the model sees: what lies outside the mask taken from the source
            (with spill = "keep", as it is).
        leakage: how it differed outside.
        caption: what it shows.
    """

    path: Path
    given_HWC: np.ndarray
    fitted_HWC: np.ndarray
    image_HWC: np.ndarray
    leakage: Leakage
    caption: str


@dataclass(frozen=True)
class Edit:
    """An edit: the first frame, and later keyframes by number."""

    first: EditedFrame
    keyframes: dict[int, EditedFrame]

    @property
    def all(self) -> dict[int, EditedFrame]:
        """Every edited frame by number."""
        return {0: self.first, **self.keyframes}


def load_clip(workspace: Workspace, config: Config) -> Clip:
    """Read the source frames and masks. Raises UserError where they and edit.toml disagree."""
    source = workspace.read_source()
    check_video_settings(workspace, config, source)
    frames = [_read_frame(workspace.source_frame(n), source.size) for n in range(source.frames)]
    return Clip(
        source=source,
        frames_THWC=np.stack(frames),
        labels_THW=load_masks(workspace, config.mask, source),
    )


def load_edit(
    workspace: Workspace,
    config: Config,
    clip: Clip,
    edit: str | None,
    captioned: Iterable[Path] = (),
) -> Edit:
    """Read an edit's frames and captions, fit them, and settle what lies outside the mask.

    Args:
        captioned: other images whose captions will be asked for: those that are missing are
            written along with the edit's, so that the captioner is loaded once.
    """
    files = workspace.find_edits(edit, clip.source.frames)
    paths = {0: files.first, **files.keyframes}
    pictures = {frame: _read_edited(path, clip.source) for frame, path in paths.items()}
    captions = settle_captions(config, workspace, [*paths.values(), *captioned])
    frames = {
        frame: _fit_frame(path, frame, pictures[frame], clip, config, captions[path])
        for frame, path in paths.items()
    }
    return Edit(frames.pop(0), frames)


def report_leakage(edit: Edit, rule: str) -> None:
    """Log how much each edited frame differs from its source outside the mask."""
    for frame, edited in edit.all.items():
        if edited.leakage.share > 0.01:
            fate = "taken from the source" if rule == "source" else "kept as edited"
            log.warning(
                "%s differs from source frame %d outside the mask: by more than %d of 255 levels "
                "on %.0f%% of it (mean %.1f); the outside is %s (appearance.spill)",
                edited.path, frame, VISIBLE, 100 * edited.leakage.share, edited.leakage.mean, fate,
            )  # fmt: skip


def _read_edited(path: Path, source: Source) -> np.ndarray:
    given = read_image(path)
    check_edit_size(path, (given.shape[1], given.shape[0]), source)
    return given


def _fit_frame(
    path: Path, frame: int, given: np.ndarray, clip: Clip, config: Config, caption: str
) -> EditedFrame:
    size = (given.shape[1], given.shape[0])
    fitted = given if size == clip.source.size else fit_image(given, clip.placement)
    source, labels = clip.frames_THWC[frame], clip.labels_THW[frame]
    image = fitted
    if config.appearance.spill == "source":
        image = composite(source, fitted, feather_alpha(labels > 0, SPILL_FEATHER))
    _check_effect(path, frame, fitted, source, labels)
    leakage = measure_leakage(fitted, source, labels)
    return EditedFrame(path, given, fitted, image, leakage, caption)


def _check_effect(
    path: Path, frame: int, fitted: np.ndarray, source: np.ndarray, labels: np.ndarray
) -> None:
    """An edit that cannot come to anything is refused, or said where it may be meant."""
    inside = labels > 0
    if frame and not inside.any():
        raise UserError(f"{path}: frame {frame} has no mask, so nothing of this edit would be used")
    if np.array_equal(fitted[inside], source[inside]):
        log.warning("note: %s is the same as the source inside the mask", path)


def _read_frame(path: Path, size: tuple[int, int]) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path} is missing: run maskora prepare again, with --overwrite")
    image = read_image(path)
    if image.shape[:2] != (size[1], size[0]):
        raise UserError(f"{path} is {image.shape[1]}x{image.shape[0]}, not {size[0]}x{size[1]}")
    return image
