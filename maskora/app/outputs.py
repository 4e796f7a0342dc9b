"""Results on disk: edited.mp4, edited.mkv, comparison.mp4, strip.png, spill.png, run.json."""

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskora import __version__
from maskora.app.edits import Clip, Edit
from maskora.app.fingerprints import LoraChoice
from maskora.app.workspace import Source, Workspace
from maskora.config import Config
from maskora.files import check_free, digest, remove, sha256_file, write_text
from maskora.models.registry import VideoModel
from maskora.video.composite import composite, contact_sheet, feather_alpha, paste_over_original
from maskora.video.differences import heat
from maskora.video.fit import unfit_mask
from maskora.video.images import write_png
from maskora.video.probe import VideoInfo
from maskora.video.read import read_frames
from maskora.video.sound import AudioClip
from maskora.video.write import write_lossless, write_mp4

LIBRARIES = (
    "torch", "diffusers", "transformers", "peft", "safetensors", "ftfy", "numpy", "pillow",
    "opencv-python-headless", "imageio-ffmpeg",
)  # fmt: skip
STRIP_FRAMES = 6
# What an earlier run may have left, and this one perhaps does not write.
EARLIER = ("run.json", "edited.mkv", "spill.png", "report.html", "report.json")
REPLACED = ("edited.mp4", "comparison.mp4", "strip.png")


@dataclass(frozen=True)
class Run:
    """The inputs of generated clips, which all seeds share.

    Attributes:
        edit: the edit's name.
        original: the video from which the clip was cut.
    """

    config: Config
    workspace: Workspace
    clip: Clip
    edited: Edit
    edit: str | None
    original: VideoInfo
    model: VideoModel


def make_room(folders: list[Path], further: Path | None) -> None:
    """Check that what the long work will write can be written; a player may hold a clip open.

    Args:
        folders: of the outputs; the first is made.
        further: a file that is written too.

    Raises:
        OSError: a file cannot be written.
    """
    folders[0].mkdir(parents=True, exist_ok=True)
    files = [folder / name for folder in folders for name in (*EARLIER, *REPLACED)]
    for file in files if further is None else [*files, further]:
        check_free(file)


def write_outputs(
    folder: Path, run: Run, loras: list[LoraChoice], seed: int, frames_THWC: np.ndarray
) -> None:
    """Write every output of one seed; run.json last, as the sign that all is there.

    Args:
        loras: the LoRA files that took part.
        frames_THWC: raw generated frames, uint8, at the workspace's size.
    """
    for name in EARLIER:
        remove(folder / name)
    clip, inference, leakage = run.clip, run.config.inference, run.edited.first.leakage
    final = frames_THWC
    if inference.lock == "pixel":
        # In frame 0 the inside is the edited frame itself, not what the autoencoder made of it.
        frames_THWC = np.stack([run.edited.first.fitted_HWC, *frames_THWC[1:]])
        final = locked_frames(run, frames_THWC)
    rate, audio = clip.source.rate, _audio(run.original, clip.source)
    pasted = _original_frames(run, frames_THWC)
    write_mp4(folder / "edited.mp4", pasted, rate, run.original.color, audio)
    if inference.lossless:
        write_lossless(folder / "edited.mkv", iter(final), rate, audio)
    write_mp4(folder / "comparison.mp4", _side_by_side(clip, final), rate, None, audio)
    write_png(folder / "strip.png", _strip(clip, final))
    if leakage.share > 0.01:
        write_png(folder / "spill.png", _leakage_picture(clip, leakage.difference_HW))
    write_text(folder / "run.json", json.dumps(_run_record(run, loras, seed), indent=2) + "\n")


def locked_frames(run: Run, inside_THWC: np.ndarray) -> np.ndarray:
    """The finished frames at the workspace's size: outside the mask the source, bit for bit."""
    clip, feather = run.clip, run.config.inference.feather
    frames = zip(clip.frames_THWC, inside_THWC, clip.labels_THW, strict=True)
    return np.stack(
        [
            composite(source, frame, feather_alpha(labels > 0, feather))
            for source, frame, labels in frames
        ]
    )


def _original_frames(run: Run, frames_THWC: np.ndarray) -> Iterator[np.ndarray]:
    """Frames of the original's size: only what was generated is resampled and pasted over."""
    clip, first, inference = run.clip, run.edited.first, run.config.inference
    source, placement, feather = clip.source, clip.source.placement, inference.feather
    originals = read_frames(run.original, source.start, source.frames, source.every)
    if inference.lock != "pixel":
        whole = np.ones(clip.labels_THW.shape[1:], dtype=bool)
        for original, generated in zip(originals, frames_THWC, strict=True):
            yield paste_over_original(original, generated, whole, placement, 0.0)
        return
    for number, original in enumerate(originals):
        region = clip.labels_THW[number] > 0
        if number == 0 and first.given_HWC.shape == original.shape:
            # An edited frame that has the original's size is pasted without resampling.
            alpha = feather_alpha(unfit_mask(region, placement), feather * placement.scale)
            yield composite(original, first.given_HWC, alpha)
        else:
            yield paste_over_original(original, frames_THWC[number], region, placement, feather)


def _side_by_side(clip: Clip, final_THWC: np.ndarray) -> Iterator[np.ndarray]:
    """source | mask | edited, one beside the other."""
    for source, labels, final in zip(clip.frames_THWC, clip.labels_THW, final_THWC, strict=True):
        dark = (source * 0.3).astype(np.uint8)  # what is kept, so that the masked part stands out
        mask = np.where((labels > 0)[..., None], source, dark)
        yield np.concatenate([source, mask, final], axis=1)


def _leakage_picture(clip: Clip, difference_HW: np.ndarray) -> np.ndarray:
    """The edited first frame's difference outside the mask: the brighter, the more."""
    inside = (clip.labels_THW[0] > 0)[..., None]
    source = clip.frames_THWC[0] // 4
    return np.where(inside, source, np.maximum(heat(difference_HW), source)).astype(np.uint8)


def _strip(clip: Clip, final_THWC: np.ndarray) -> np.ndarray:
    """Some source frames with their boxes above the same frames edited."""
    count = min(STRIP_FRAMES, len(final_THWC))
    numbers = [int(n) for n in np.linspace(0, len(final_THWC) - 1, count).round()]
    frames = [clip.frames_THWC[n] for n in numbers] + [final_THWC[n] for n in numbers]
    empty = np.zeros_like(clip.labels_THW[0])
    labels = [clip.labels_THW[n] for n in numbers] + [empty] * count
    return contact_sheet(frames, labels, captions=[*numbers, *numbers], columns=count, width=1800)


def _run_record(run: Run, loras: list[LoraChoice], seed: int) -> dict[str, Any]:
    """Everything needed to repeat the run, and what it was made from."""
    config, clip, model = run.config, run.clip, run.model
    seeded = config.inference.model_copy(update={"seed": seed})
    edited, device = run.edited.all.items(), model.device
    return {
        "program": f"maskora {__version__}",
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "workspace": str(run.workspace.root.resolve()),
        "config": config.model_copy(update={"inference": seeded}).model_dump(mode="json"),
        "edit": run.edit,
        "seed": seed,
        "prompt": config.prompt.with_token(run.edited.first.caption),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "model": {
            "folder": str(model.source.where),
            **{part: model.identity(part) for part in model.parts},
            "experts": [asdict(expert) for expert in model.experts],
            "scheduler": model.source.config("scheduler"),
        },
        "loras": [{**asdict(one), **_named_file(one.path)} for one in loras],
        "inputs": {
            "source": clip.source.model_dump(mode="json"),
            "frames": digest(clip.frames_THWC.tobytes()),
            "masks": digest(clip.labels_THW.tobytes()),
            "edited": {str(frame): _named_file(e.path) for frame, e in edited},
        },
        "outside_difference": {
            str(frame): {"mean_levels": e.leakage.mean, "share_over_20_levels": e.leakage.share}
            for frame, e in edited
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


def _named_file(path: Path) -> dict[str, str]:
    return {"path": str(path.resolve()), "sha256": sha256_file(path)}


def _audio(original: VideoInfo, source: Source) -> AudioClip | None:
    if original.audio_track is None:
        return None
    return AudioClip(
        original.path,
        original.start_seconds + float(source.start / original.fps),
        float(source.frames / source.rate),
        original.audio_track,
        original.joined,
    )
