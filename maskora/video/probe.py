"""What a clip is, before its frames are read."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from maskora.errors import UserError
from maskora.files import is_hidden
from maskora.video.clock import Clock, read_clock
from maskora.video.color import ColorTags, tags_from_codes
from maskora.video.ffmpeg import file_url, has_filter
from maskora.video.images import IMAGE_SUFFIXES, image_size, natural_key
from maskora.video.info import VideoInfo
from maskora.video.limits import TOLD_CONTAINERS, Limits
from maskora.video.timing import choose_rate, constant_rate_picks

__all__ = ["ColorTags", "VideoInfo", "probe"]

IMAGES_FPS = Fraction(16)


def probe(path: Path, fps: Fraction | None = None, limits: Limits | None = None) -> VideoInfo:
    """Find out what a video file, or a folder of images, holds.

    Args:
        path: a video file, or a folder whose images are the frames, in natural order.
        fps: the rate to read it at; by default a file's own, and 16 for a folder.
        limits: for a file from elsewhere: single video files only, and no more than this of it
            (`check_untrusted` does that in a process of its own).

    Raises:
        UserError: it is missing, not a video, damaged, has no frames, or goes beyond a limit.
    """
    if fps is not None and fps <= 0:
        raise UserError(f"{path}: the frame rate must be positive, not {fps}")
    if path.is_dir():
        return _probe_images(path, fps, limits)
    if not path.is_file():
        raise UserError(f"{path}: no such video file or folder")
    if limits is not None:
        limits.check_bytes(path, path.stat().st_size)
    try:
        options = limits.container_options if limits is not None else {}
        with av.open(file_url(path), container_options=options) as container:
            return _probe_file(path, container, fps, limits)
    except av.FFmpegError as error:
        on_opening = error.filename == file_url(path)
        if limits is not None and on_opening and isinstance(error, av.ArgumentError):  # whitelist
            raise UserError(
                f"{path}: not one of the video files that are taken ({TOLD_CONTAINERS}), or damaged"
            ) from None
        raise UserError(
            f"{path}: cannot be read as a video: it is something else, or cut short, or damaged"
            f" ({error.strerror})"
        ) from None


def _probe_images(folder: Path, fps: Fraction | None, limits: Limits | None) -> VideoInfo:
    shown = (p for p in folder.iterdir() if not is_hidden(p))
    entries = sorted(shown, key=natural_key)
    images = tuple(p for p in entries if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{folder}: no images in this folder (png, jpg, webp, bmp or tif)")
    by_stem: dict[str, Path] = {}
    for path in images:
        twin = by_stem.setdefault(path.stem, path)
        if twin != path:
            raise UserError(
                f"{folder}: {twin.name} and {path.name} are the same frame twice; keep one of them"
            )
    width, height = image_size(images[0])
    if limits is not None:
        limits.check_pixels(folder, width, height)
        limits.check_length(folder, len(images), 0)
        limits.check_bytes(folder, sum(path.stat().st_size for path in images))
    for path in images[1:]:
        found = image_size(path)
        if found != (width, height):
            raise UserError(
                f"{path}: {found[0]}x{found[1]}, but {images[0].name} is {width}x{height}; "
                "all frames of a folder must have one size"
            )
    notes = [f"{len(images)} images read as frames, {images[0].name} to {images[-1].name}"]
    if fps is None:
        notes.append(f"images carry no frame rate: {IMAGES_FPS} per second assumed")
    others = [p.name for p in entries if p not in set(images)]
    if others:
        notes.append(f"not images, left out: {', '.join(others)}")
    rate = fps or IMAGES_FPS
    return VideoInfo(
        folder, "images", width, height, len(images), rate, notes=tuple(notes), images=images
    )


def _probe_file(
    path: Path, container: InputContainer, fps: Fraction | None, limits: Limits | None
) -> VideoInfo:
    stream, passed_over = _first_video_stream(path, container)
    if limits is not None:
        limits.check_header(path, container, stream)
        stream.codec_context.options = limits.decoder_options
    check = partial(limits.check_length, path) if limits else None
    first, clock = read_clock(container, stream, check)
    if first is None:
        raise UserError(f"{path}: the video stream has no frames")
    named = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
    rate, variable = choose_rate(clock.times, named)
    color, (width, height) = _color(first), _displayed_size(stream, first)
    if limits is not None:
        seconds = clock.end - clock.times[0]
        limits.check_pixels(path, width, height)
        limits.check_length(path, seconds * float(fps or rate), seconds)
    repicked = variable or (fps is not None and fps != rate)
    picks = constant_rate_picks(clock.times, clock.end, fps or rate) if repicked else None
    info = VideoInfo(
        path=path,
        kind="video",
        width=width,
        height=height,
        frames=len(clock.times) if picks is None else len(picks),
        fps=fps or rate,
        variable_rate=variable,
        rotation=_rotation(first),
        bit_depth=first.format.components[0].bits,
        hdr=color.hdr,
        color=color,
        has_audio=bool(container.streams.audio),
        start_seconds=clock.times[0] - (container.start_time or 0) / av.time_base,
        stream=stream.index,
        container=container.format.name,
        picks=picks,
    )
    notes = (*_stream_notes(passed_over, stream, first, clock), *_conversion_notes(info, rate))
    return replace(info, notes=notes)


def _first_video_stream(path: Path, container: InputContainer) -> tuple[VideoStream, int]:
    """The first stream of moving pictures, and how many others there are (covers not counted)."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or container.format.name == "tty":  # tty: a text file taken for ANSI art
        raise UserError(f"{path}: no video stream in this file")
    streams[0].thread_type = "AUTO"
    return streams[0], len(streams) - 1


def _color(frame: VideoFrame) -> ColorTags:
    codes = frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range
    return tags_from_codes(*map(int, codes))


def _rotation(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) * 90 % 360


def _displayed_size(stream: VideoStream, frame: VideoFrame) -> tuple[int, int]:
    """(width, height) with square pixels (the width gives way), then rotated."""
    width = max(1, round(frame.width * (stream.sample_aspect_ratio or 1)))
    return (frame.height, width) if _rotation(frame) in (90, 270) else (width, frame.height)


def _stream_notes(
    passed_over: int, stream: VideoStream, first: VideoFrame, clock: Clock
) -> tuple[str, ...]:
    notes = []
    if clock.missing:
        there = len(clock.times) - clock.missing
        notes.append(
            f"the file is cut short: it promises {len(clock.times)} frames, {there} are there"
        )
    if passed_over:
        notes.append(f"{passed_over + 1} video streams: the first is used")
    if (stream.sample_aspect_ratio or 1) != 1:
        notes.append(
            f"pixels of {stream.sample_aspect_ratio} made square: "
            f"{first.width}x{first.height} stretched in width"
        )
    if first.interlaced_frame:
        notes.append("interlaced: used as it is, so moving edges may show comb lines")
    return tuple(notes)


def _conversion_notes(info: VideoInfo, own_rate: Fraction) -> tuple[str, ...]:
    notes = []
    if info.rotation:
        notes.append(
            f"rotated by {info.rotation} degrees as tagged: {info.width}x{info.height} shown"
        )
    if info.variable_rate:
        notes.append(
            f"variable frame rate: read at a constant {_rate_text(info.fps)} per second, "
            f"{info.frames} frames"
        )
    elif info.picks is not None:
        notes.append(
            f"{_rate_text(own_rate)} frames per second read at {_rate_text(info.fps)}, "
            f"{info.frames} frames"
        )
    if info.bit_depth > 8:
        notes.append(f"{info.bit_depth} bits per channel reduced to 8")
    if info.hdr and has_filter("zscale"):
        notes.append(f"HDR ({info.hdr.upper()}) tone-mapped to SDR, BT.709")
    elif info.hdr:
        notes.append(
            f"HDR ({info.hdr.upper()}) read without tone mapping: this ffmpeg has no zscale "
            "filter, colours will look flat"
        )
    return tuple(notes)


def _rate_text(rate: Fraction) -> str:
    return str(rate) if rate.denominator == 1 else f"{float(rate):.3f}"
