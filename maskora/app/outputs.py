"""Results on disk: edited.mp4, edited.mkv, comparison.mp4, strip.png, spill.png, run.json.

All of a seed's files are written beside the earlier result, which they replace together.
"""

import json
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskora import __version__
from maskora.app.edits import Clip, Edit
from maskora.app.exchange import exchange
from maskora.app.fingerprints import LoraChoice
from maskora.app.plan import segments_of
from maskora.app.workspace import Source, Workspace, check_content, video_sha256
from maskora.config import Config
from maskora.errors import Fault, UserError
from maskora.files import check_free, remove, sha256_file, write_text
from maskora.frames import Frames, LazyFrames, digest_frames
from maskora.hub import is_hub_id
from maskora.method.segments import Segment
from maskora.models.registry import VideoModel
from maskora.video.composite import composite, contact_sheet, feather_alpha, paste_over_original
from maskora.video.differences import heat
from maskora.video.fit import unfit_mask
from maskora.video.images import write_png
from maskora.video.probe import VideoInfo
from maskora.video.read import read_frames
from maskora.video.sound import AudioClip
from maskora.video.write import write_lossless, write_mp4

log = logging.getLogger("maskora")
Settle = Callable[[Path, Path], None]  # a folder of results, and its new result
LIBRARIES = (
    "torch", "diffusers", "transformers", "peft", "safetensors", "ftfy", "numpy", "pillow",
    "opencv-python-headless", "imageio-ffmpeg",
)  # fmt: skip
STRIP_FRAMES = 6
# IPTC's name for a recording of which a part was generated.
DIGITAL_SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
# An empty file: a person calls this result the best. No edit, whose folder may lie beside it, has
# a name with a dot.
STAR = "best.star"
# Of an earlier result; what this one does not write goes.
RESULT = (
    "edited.mp4", "edited.mkv", "comparison.mp4", "strip.png", "spill.png", "run.json",
    "report.html", "report.json", STAR,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """The inputs of generated clips, which all seeds share.

    Attributes:
        edit: the edit's name.
        original: the video from which the clip was cut.
        plan: how the base lay in memory, in words.
    """

    config: Config
    workspace: Workspace
    clip: Clip
    edited: Edit
    edit: str | None
    original: VideoInfo
    model: VideoModel
    plan: str

    @property
    def segments(self) -> list[Segment]:
        """The segments in which the clip is generated."""
        source, inference = self.clip.source, self.config.inference
        return segments_of(inference, source.frames, self.edited.all, source.shot_starts)


def result_files(folder: Path) -> list[Path]:
    """Every file that a result in a folder may have."""
    return [folder / name for name in RESULT]


def make_room(folder: Path, files: list[Path]) -> None:
    """Check that what the long work will write can be written; a player may hold a clip open.

    Args:
        folder: of the outputs; it is made.
        files: to be written.

    Raises:
        UserError: a folder is where a file is to be written.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_dir():
            raise UserError(
                f"{file} is a folder, but a file of the result goes there: move it away"
            )
        check_free(file)


def write_outputs(
    folder: Path,
    run: Run,
    record: dict[str, Any],
    frames_THWC: Frames,
    timings: dict[str, float],
    settle: Settle | None = None,
) -> None:
    """Write every output of one seed; the earlier ones stay until all of it is there.

    Where that fails, the finished frames are kept as pictures, and the log says where.

    Args:
        record: the seed's, of `record_of_seed`.
        frames_THWC: raw generated frames, uint8, at the workspace's size.
        timings: seconds of each part of the work that all seeds shared.
        settle: is given the folder and the new result, before that takes the place of the earlier.
    """
    final = frames_THWC
    try:
        if run.config.inference.lock == "pixel":
            frames_THWC = with_edited_frame(run, frames_THWC)
            final = locked_frames(run, frames_THWC)
        with exchange(folder, dropping=RESULT) as new:
            started = time.perf_counter()
            _write_files(new, run, frames_THWC, final)
            check_content(run.original.path, record["inputs"]["original"]["sha256"])
            timings = {**timings, "writing": time.perf_counter() - started}
            written = {path.name: sha256_file(path) for path in sorted(new.iterdir())}
            tiling = {"vae_tiling": run.model.placement.vae_tiling}  # memory may have run out
            record = record | tiling | {"outputs": written, "timings": timings}
            write_text(new / "run.json", json.dumps(record, indent=2) + "\n")
            if settle is not None:
                settle(folder, new)
    except (Exception, KeyboardInterrupt):
        _keep_frames(folder, record["seed"], final)
        raise


def _write_files(folder: Path, run: Run, frames_THWC: Frames, final_THWC: Frames) -> None:
    """Write a result's videos and pictures into an empty folder.

    Args:
        frames_THWC: what is pasted over the original.
        final_THWC: the finished frames at the workspace's size.
    """
    clip, leakage = run.clip, run.edited.first.leakage
    rate, audio = clip.source.rate, _audio(run.original, clip.source)
    pasted = _original_frames(run, frames_THWC)
    said = provenance(run.config.model.base)
    write_mp4(folder / "edited.mp4", pasted, rate, run.original.color, audio, said)
    if run.config.inference.lossless:
        write_lossless(folder / "edited.mkv", iter(final_THWC), rate, audio, said)
    write_comparison(folder / "comparison.mp4", run, final_THWC)
    write_png(folder / "strip.png", _strip(clip, final_THWC))
    if leakage.share > 0.01:
        write_png(folder / "spill.png", _leakage_picture(clip, leakage.difference_HW))


def write_comparison(path: Path, run: Run, final_THWC: Frames) -> None:
    """Write source, mask and the finished frames side by side, at the clip's size, with sound."""
    clip = run.clip
    beside, audio = _side_by_side(clip, final_THWC), _audio(run.original, clip.source)
    write_mp4(path, beside, clip.source.rate, None, audio, provenance(run.config.model.base))


def provenance(base: str) -> dict[str, str]:
    """A video's metadata that says how it was made.

    Args:
        base: as [model] names it; of a path, the last name.
    """
    name = base if is_hub_id(base) else Path(base).name
    made = f"AI-edited with maskora {__version__}, model {name}"
    return {"comment": made, "description": f"{made}. Digital source type: {DIGITAL_SOURCE_TYPE}"}


def _keep_frames(folder: Path, seed: int, final_THWC: Frames) -> None:
    """Keep frames that could not become a result, losslessly: beside it, or where there is room."""
    name = f"seed-{seed}-frames"
    for home in (folder, Path(tempfile.gettempdir())):
        try:
            place = Path(tempfile.mkdtemp(dir=home, prefix=f"{name}-"))
        except OSError as error:
            log.error("the frames cannot be kept in %s: %s", home, error.strerror)
            continue
        try:
            for number, frame_HWC in enumerate(final_THWC):
                write_png(place / f"{number:05d}.png", frame_HWC)
        except (OSError, Fault, UserError) as error:
            log.error("the frames cannot be kept in %s: %s", home, error)
            remove(place)
            continue
        log.error("the result was not written; its finished frames are kept in %s", place)
        return


def with_edited_frame(run: Run, frames_THWC: Frames) -> Frames:
    """Generated frames, whose first is the edited frame, not what the autoencoder made of it."""
    first_HWC = run.edited.first.fitted_HWC
    return LazyFrames(lambda n: frames_THWC[n] if n else first_HWC, frames_THWC.shape)


def locked_frames(run: Run, inside_THWC: Frames) -> Frames:
    """The finished frames at the workspace's size: outside the mask the source, bit for bit."""
    clip, feather = run.clip, run.config.inference.feather

    def locked(number: int) -> np.ndarray:
        alpha_HW = feather_alpha(clip.labels_THW[number] > 0, feather)
        return composite(clip.frames_THWC[number], inside_THWC[number], alpha_HW)

    return LazyFrames(locked, inside_THWC.shape)


def _original_frames(run: Run, frames_THWC: Frames) -> Iterator[np.ndarray]:
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


def _side_by_side(clip: Clip, final_THWC: Frames) -> Iterator[np.ndarray]:
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


def _strip(clip: Clip, final_THWC: Frames) -> np.ndarray:
    """Some source frames with their boxes above the same frames edited."""
    count = min(STRIP_FRAMES, len(final_THWC))
    numbers = [int(n) for n in np.linspace(0, len(final_THWC) - 1, count).round()]
    frames = [clip.frames_THWC[n] for n in numbers] + [final_THWC[n] for n in numbers]
    empty = np.zeros_like(clip.labels_THW[0])
    labels = [clip.labels_THW[n] for n in numbers] + [empty] * count
    return contact_sheet(frames, labels, captions=[*numbers, *numbers], columns=count, width=1800)


def run_record(run: Run, loras: list[LoraChoice]) -> dict[str, Any]:
    """Everything needed to repeat the run, and what it is made from.

    It is taken before the long work: what lies on the disk at its end may be something else.

    Args:
        loras: the LoRA files that take part.
    """
    config, model, device = run.config, run.model, run.model.device
    segments = [asdict(segment) for segment in run.segments]
    return {
        "program": f"maskora {__version__}",
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "workspace": str(run.workspace.root.resolve()),
        "config": config.model_dump(mode="json"),
        "edit": run.edit,
        "seed": config.inference.seed,
        "prompt": config.prompt.with_token(run.edited.first.caption),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "vae_tiling": model.placement.vae_tiling,
        "model": {
            "folder": str(model.source.where),
            **{part: model.identity(part) for part in model.parts},
            "experts": [asdict(expert) for expert in model.experts],
            "scheduler": model.source.config("scheduler"),
        },
        "loras": [{**asdict(one), "path": str(one.path.resolve())} for one in loras],
        "plan": run.plan.splitlines(),
        **({"segments": segments} if len(segments) > 1 else {}),
        "inputs": _inputs(run),
        "outside_difference": {
            str(frame): {"mean_levels": e.leakage.mean, "share_over_20_levels": e.leakage.share}
            for frame, e in run.edited.all.items()
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


def _inputs(run: Run) -> dict[str, Any]:
    """The original, the clip and the edited frames, by path and content."""
    source, origin = run.clip.source, Path(run.clip.source.origin)
    return {
        "original": {
            "path": str(origin),
            "sha256": source.origin_sha256 or video_sha256(origin),
            "frames": run.original.frames,
        },
        "source": source.model_dump(mode="json"),
        "frames": digest_frames(run.clip.frames_THWC),
        "masks": digest_frames(run.clip.labels_THW),
        "edited": {
            str(frame): {"path": str(e.path.resolve()), "sha256": e.sha256}
            for frame, e in run.edited.all.items()
        },
    }


def record_of_seed(record: dict[str, Any], seed: int) -> dict[str, Any]:
    """A run's record for one of its seeds."""
    config = record["config"]
    seeded = {**config, "inference": {**config["inference"], "seed": seed}}
    return {**record, "config": seeded, "seed": seed}


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
