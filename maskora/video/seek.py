"""Where decoding begins so that a frame comes whole: at its key frame, if the file knows that."""

from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from maskora.video.clock import TIMED_CONTAINERS
from maskora.video.ffmpeg import open_file, refuse_fault
from maskora.video.probe import VideoInfo

LEAST_PIXEL_BOUND = 2**26  # pixels of a coded frame, whatever size it is shown at
SEEK_BEFORE = 2.0  # seconds: pictures right after a seek may build on what was not decoded


def most_pixels(info: VideoInfo) -> int:
    """Of a coded frame: a stream may not outgrow its first frame without end."""
    return min(max(4 * info.width * info.height, LEAST_PIXEL_BOUND), 2**31 - 1)


@contextmanager
def open_stream(info: VideoInfo) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A clip's file and its stream, whose packets are decoded one by one by one thread."""
    with open_file(info.path, info.container) as container:
        video = container.streams[info.stream]
        assert isinstance(video, VideoStream)
        video.thread_type, video.codec_context.thread_count = "NONE", 1
        video.codec_context.options = {"max_pixels": str(most_pixels(info))}
        yield container, video


def seek(container: InputContainer, video: VideoStream, target: float) -> None:
    """Go on reading at the last key frame up to a time in seconds. Raises av.FFmpegError."""
    container.seek(int(target / float(video.time_base or 1)), stream=video)


def seek_target(info: VideoInfo, first: int) -> float | None:
    """The time, in seconds, to seek for frame `first`; None: decode from the start.

    The picture that is found there is decoded: what a file says of its key frames may be wrong.

    Raises:
        Fault: the machine cannot read the file now.
    """
    if not info.container.startswith(TIMED_CONTAINERS) or not info.times:
        return None
    target = info.times[first] - SEEK_BEFORE
    if target <= info.times[0]:
        return None
    try:
        with open_stream(info) as (container, video):
            seek(container, video, target)
            return target if _begins_whole(container, video, info.times[first]) else None
    except av.FFmpegError as error:  # without an index, say
        refuse_fault(info.path, error)
        return None


def _begins_whole(container: InputContainer, video: VideoStream, before: float) -> bool:
    """Whether the next frame that can be decoded is a key frame, and shown before a time."""
    for packet in container.demux(video):
        for frame in packet.decode():
            return frame.key_frame and frame.time is not None and frame.time < before
        if packet.pts is not None and packet.pts * float(packet.time_base or 0) > before:
            return False
    return False
