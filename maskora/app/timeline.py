"""A long clip drawn as a strip: its segments, its shots and its edited frames."""

from collections.abc import Collection, Iterator, Sequence
from html import escape
from itertools import pairwise

from maskora.app.plan import clip_segments, edited_numbers
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.method.segments import Segment

WIDTH = 1000.0  # of the drawing; the page scales it
ROW, GAP = 24.0, 6.0  # heights of a row of segments, and between rows
LETTER = 9.0  # width of a digit
# Readable on light and on dark ground; all else has the colour of the text around.
SEGMENTS, EDITED = "#4a86c5", "#d9822b"


def clip_timeline(config: Config, workspace: Workspace, edit: str | None) -> str:
    """The timeline of a prepared clip with the frames of an edit that are there by now.

    Raises:
        UserError: the workspace is not complete, or the edit's folder holds what is no frame.
    """
    source = workspace.read_source()
    edited = edited_numbers(workspace, edit, source.frames)
    segments = clip_segments(config, source, edited)
    return draw_timeline(source.frames, segments, source.shot_starts, edited)


def draw_timeline(
    frames: int, segments: Sequence[Segment], shot_starts: Sequence[int], edited: Collection[int]
) -> str:
    """An HTML figure of a clip that is generated in several segments; empty for one segment.

    Neighbouring segments lie in two rows, so that the frames that they share can be seen.

    Args:
        frames: of the clip.
        shot_starts: the frames at which the second shot and those after it begin.
        edited: numbers of the edited frames.
    """
    if len(segments) < 2:
        return ""
    scale, height = WIDTH / frames, 4 * (ROW + GAP)  # shots, twice segments, edited frames
    shapes = [
        *_shots(scale, [0, *shot_starts, frames]),
        *_bars(scale, segments),
        *(_keyframe(scale, frame) for frame in sorted(edited)),
    ]
    numbers = ", ".join(map(str, sorted(edited))) or "none"
    shots = f", {len(shot_starts) + 1} shots" if shot_starts else ""
    words = f"{frames} frames in {len(segments)} segments{shots}; edited frames (◆): {numbers}"
    return (
        f'<figure style="margin: 0 0 12px"><svg viewBox="-8 0 {WIDTH + 16:g} {height:g}" '
        f'width="100%" role="img" aria-label="{escape(words)}" fill="currentColor" '
        f'font-size="14" font-family="inherit">{"".join(shapes)}</svg>'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def _rect(x: float, y: float, width: float, look: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{ROW:g}" rx="3" {look}>'
        f"<title>{escape(title)}</title></rect>"
    )


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y + 17:g}" text-anchor="middle">{escape(text)}</text>'


def _shots(scale: float, borders: Sequence[int]) -> Iterator[str]:
    """The shots, the top row."""
    for number, (start, stop) in enumerate(pairwise(borders), 1):
        x, width, name = start * scale, (stop - start) * scale, f"shot {number}"
        look = f'fill-opacity="{0.10 if number % 2 else 0.22}"'
        yield _rect(x, 0, width, look, f"{name}: frames {start} to {stop - 1}")
        if len(borders) > 2 and width > LETTER * len(name):
            yield _label(x + width / 2, 0, name)


def _bars(scale: float, segments: Sequence[Segment]) -> Iterator[str]:
    """The segments in two rows; what each has of the one before is paler."""
    count = len(segments)
    for number, segment in enumerate(segments, 1):
        y = (ROW + GAP) * (1 if number % 2 else 2)
        title = f"segment {number} of {count}: frames {segment.start} to {segment.stop - 1}"
        if segment.anchor is not None:
            title += f"; it is shown the edited frame {segment.anchor}"
        x, width = segment.start * scale, (segment.stop - segment.start) * scale
        yield _rect(x, y, width, f'fill="{SEGMENTS}" fill-opacity="0.35"', title)
        own = (segment.stop - segment.begins) * scale
        look = f'fill="{SEGMENTS}" fill-opacity="0.6"'
        yield _rect(segment.begins * scale, y, own, look, title)
        if own > LETTER * len(str(number)) + 4:
            yield _label(segment.begins * scale + own / 2, y, str(number))


def _keyframe(scale: float, frame: int) -> str:
    x, y = (frame + 0.5) * scale, 3 * (ROW + GAP) + ROW / 2
    return (
        f'<path d="M{x:.1f} {y - 8:g}l7 8l-7 8l-7 -8z" fill="{EDITED}" stroke="currentColor">'
        f"<title>edited frame {frame}</title></path>"
    )
