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
from maskora.app.loras import Stacked
from maskora.app.workspace import Source
from maskora.config import Config
from maskora.files import check_free, digest, remove, sha256_file, write_text
from maskora.models.registry import VideoModel
from maskora.video.composite import composite, contact_sheet, feather_alpha, paste_over_original
from maskora.video.differences import heat
from maskora.video.fit import unfit_mask
from maskora.video.images import write_png
from maskora.video.probe import VideoInfo
from maskora.video.read import read_frames
from maskora.video.write import AudioClip, write_lossless, write_mp4

LIBRARIES = (
    "torch", "diffusers", "transformers", "peft", "safetensors", "ftfy", "numpy", "pillow",
    "opencv-python-headless", "imageio-ffmpeg",
)  # fmt: skip
STRIP_FRAMES = 6
# Of an earlier run, perhaps not of this.
EARLIER = ("run.json", "edited.mkv", "spill.png", "report.html", "report.json")
REPLACED = ("edited.mp4", "comparison.mp4", "strip.png")


@dataclass(frozen=True)
class Generated:
    """One seed's result.

    Attributes:
        frames_THWC: raw generated frames, uint8, at the workspace's size.
        seed: of the noise.
        loras: LoRA files, their strengths and transformers.
        edit: the edit's name.
        prompt: what the model was told, token included.
        workspace: the edit's folder.
    """

    frames_THWC: np.ndarray
    seed: int
    loras: list[Stacked]
    edit: str | None
    prompt: str
    workspace: Path


def make_room(folders: list[Path], further: Path | None) -> None:
    """What the long work will write can be written; a player may hold an earlier clip open.

    Args:
        folders: of the outputs; the first is made.
        further: a file that is written too.

    Raises:
        OSError: it cannot.
    """
    folders[0].mkdir(parents=True, exist_ok=True)
    files = [folder / name for folder in folders for name in (*EARLIER, *REPLACED)]
    for file in files if further is None else [*files, further]:
        check_free(file)


def write_outputs(
    folder: Path,
    config: Config,
    model: VideoModel,
    clip: Clip,
    edited: Edit,
    origin: VideoInfo,
    result: Generated,
) -> None:
    """Write every output of one seed; run.json last, as the sign that all is there."""
    for name in EARLIER:
        remove(folder / name)
    source, locked = clip.source, config.inference.lock == "pixel"
    final = (
        locked_frames(clip, edited, result.frames_THWC, config) if locked else result.frames_THWC
    )
    audio = _audio(origin, source)
    write_mp4(
        folder / "edited.mp4",
        _original_frames(config, clip, edited, origin, result.frames_THWC),
        source.rate,
        origin.color,
        audio,
    )
    if config.inference.lossless:
        write_lossless(folder / "edited.mkv", iter(final), source.rate, audio)
    write_mp4(folder / "comparison.mp4", _side_by_side(clip, final), source.rate, None, audio)
    write_png(folder / "strip.png", strip(clip, final))
    if edited.first.leakage.share > 0.01:
        write_png(folder / "spill.png", spill_picture(clip, edited.first.leakage.difference_HW))
    record = run_record(config, model, clip, edited, result)
    write_text(folder / "run.json", json.dumps(record, indent=2) + "\n")


def locked_frames(clip: Clip, edited: Edit, frames_THWC: np.ndarray, config: Config) -> np.ndarray:
    """The finished frames at the workspace's size: outside the mask the source, bit for bit.

    In frame 0 the inside is the edited frame itself, not what the autoencoder made of it.
    """
    inside = [edited.first.fitted_HWC, *frames_THWC[1:]]
    return np.stack(
        [
            composite(source, frame, feather_alpha(labels > 0, config.inference.feather))
            for source, frame, labels in zip(clip.frames_THWC, inside, clip.labels_THW, strict=True)
        ]
    )


def _original_frames(
    config: Config, clip: Clip, edited: Edit, origin: VideoInfo, frames_THWC: np.ndarray
) -> Iterator[np.ndarray]:
    """Frames of the original's size: only what was generated is resampled and pasted over."""
    source, placement, feather = clip.source, clip.placement, config.inference.feather
    originals = read_frames(origin, source.start, source.frames, source.every)
    if config.inference.lock != "pixel":
        whole = np.ones(clip.labels_THW.shape[1:], dtype=bool)
        for original, generated in zip(originals, frames_THWC, strict=True):
            yield paste_over_original(original, generated, whole, placement, 0.0)
        return
    inside = [edited.first.fitted_HWC, *frames_THWC[1:]]
    for number, original in enumerate(originals):
        region = clip.labels_THW[number] > 0
        if number == 0 and edited.first.given_HWC.shape == original.shape:
            yield _own_resolution(original, edited.first.given_HWC, region, clip, feather)
        else:
            yield paste_over_original(original, inside[number], region, placement, feather)


def _own_resolution(
    original: np.ndarray, given: np.ndarray, region: np.ndarray, clip: Clip, feather: float
) -> np.ndarray:
    """An edited frame that has the original's size is pasted as it is, without resampling."""
    placement = clip.placement
    alpha = feather_alpha(unfit_mask(region, placement), feather * placement.scale)
    return composite(original, given, alpha)


def _side_by_side(clip: Clip, final_THWC: np.ndarray) -> Iterator[np.ndarray]:
    """source | mask | edited, one beside the other."""
    for source, labels, final in zip(clip.frames_THWC, clip.labels_THW, final_THWC, strict=True):
        yield np.concatenate([source, tinted(source, labels), final], axis=1)


def tinted(frame_HWC: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """A frame whose kept part is darkened, so that the masked part stands out; uint8."""
    dark = (frame_HWC * 0.3).astype(np.uint8)
    return np.where((labels_HW > 0)[..., None], frame_HWC, dark)


def spill_picture(clip: Clip, difference_HW: np.ndarray) -> np.ndarray:
    """Where an edited first frame differs outside the mask: the brighter, the more; inside dark."""
    inside = (clip.labels_THW[0] > 0)[..., None]
    source = clip.frames_THWC[0] // 4
    return np.where(inside, source, np.maximum(heat(difference_HW), source)).astype(np.uint8)


def strip(clip: Clip, final_THWC: np.ndarray) -> np.ndarray:
    """Some source frames with their boxes above the same frames edited."""
    count = min(STRIP_FRAMES, len(final_THWC))
    numbers = [int(n) for n in np.linspace(0, len(final_THWC) - 1, count).round()]
    frames = [clip.frames_THWC[n] for n in numbers] + [final_THWC[n] for n in numbers]
    empty = np.zeros_like(clip.labels_THW[0])
    labels = [clip.labels_THW[n] for n in numbers] + [empty] * count
    return contact_sheet(frames, labels, captions=[*numbers, *numbers], columns=count, width=1800)


def run_record(
    config: Config, model: VideoModel, clip: Clip, edited: Edit, result: Generated
) -> dict[str, Any]:
    """Everything needed to repeat the run, and what it was made from."""
    seeded = config.inference.model_copy(update={"seed": result.seed})
    return {
        "program": f"maskora {__version__}",
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "workspace": str(result.workspace.resolve()),
        "config": config.model_copy(update={"inference": seeded}).model_dump(mode="json"),
        "edit": result.edit,
        "seed": result.seed,
        "prompt": result.prompt,
        "device": device_name(model),
        "model": {
            "folder": str(model.source.where),
            **{part: model.identity(part) for part in model.parts},
            "experts": [asdict(expert) for expert in model.experts],
            "scheduler": model.source.config("scheduler"),
        },
        "loras": [_lora_record(one) for one in result.loras],
        "inputs": {
            "source": clip.source.model_dump(mode="json"),
            "frames": digest(clip.frames_THWC.tobytes()),
            "masks": digest(clip.labels_THW.tobytes()),
            "edited": {
                str(frame): {"path": str(e.path.resolve()), "sha256": sha256_file(e.path)}
                for frame, e in edited.all.items()
            },
        },
        "outside_difference": {
            str(frame): {"mean_levels": e.leakage.mean, "share_over_20_levels": e.leakage.share}
            for frame, e in edited.all.items()
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


def _lora_record(one: Stacked) -> dict[str, Any]:
    return {
        "path": str(one.path.resolve()),
        "strength": one.strength,
        "expert": one.expert,
        "sha256": sha256_file(one.path),
    }


def device_name(model: VideoModel) -> str:
    """The card by its name, or "cpu"."""
    if model.device.type != "cuda":
        return str(model.device)
    return torch.cuda.get_device_name(model.device)


def _audio(origin: VideoInfo, source: Source) -> AudioClip | None:
    if not origin.has_audio:
        return None
    return AudioClip(
        origin.path,
        origin.start_seconds + float(source.start / origin.fps),
        float(source.frames / source.rate),
    )
