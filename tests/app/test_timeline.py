"""The strip of a long clip: everything is in it, in its place, and readable everywhere."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from maskora.app.timeline import SEGMENTS, WIDTH, draw_timeline
from maskora.method.segments import Segment, plan_segments

FRAMES, CUTS, EDITED = 300, [120, 290], [0, 60, 170]


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    return plan_segments(FRAMES, EDITED, CUTS, segment=49, overlap=8, anchored=True)


@pytest.fixture(scope="module")
def figure(segments: list[Segment]) -> ET.Element:
    return ET.fromstring(draw_timeline(FRAMES, segments, CUTS, EDITED))


def titles(figure: ET.Element) -> list[str]:
    return [title.text or "" for title in figure.iter("title")]


def test_a_clip_of_one_segment_has_none() -> None:
    assert draw_timeline(49, [Segment(0, 49)], [], [0]) == ""


def test_segments_shots_and_edited_frames_are_there(
    figure: ET.Element, segments: list[Segment]
) -> None:
    found = titles(figure)
    assert [title for title in found if title.startswith("shot")] == [
        "shot 1: frames 0 to 119", "shot 2: frames 120 to 289", "shot 3: frames 290 to 299",
    ]  # fmt: skip
    assert [title for title in found if title.startswith("edited")] == [
        f"edited frame {frame}" for frame in EDITED
    ]
    for number, one in enumerate(segments, 1):
        begin = f"segment {number} of {len(segments)}: frames {one.start} to {one.stop - 1}"
        assert sum(title.startswith(begin) for title in found) == 2, "all of it, and its own part"
    caption = figure.findtext("figcaption")
    assert caption == (
        f"300 frames in {len(segments)} segments, 3 shots; edited frames (◆): 0, 60, 170"
    )
    one_shot = draw_timeline(60, [Segment(0, 49), Segment(41, 60, 8, 0)], [], [])
    assert "60 frames in 2 segments; edited frames (◆): none" in one_shot


def test_everything_lies_in_the_drawing_and_neighbours_in_two_rows(figure: ET.Element) -> None:
    bars = [rect for rect in figure.iter("rect") if rect.get("fill") == SEGMENTS]
    for rect in figure.iter("rect"):
        x, width = float(rect.get("x", "nan")), float(rect.get("width", "nan"))
        assert x >= 0
        assert width > 0
        assert x + width <= WIDTH + 0.1
    whole = bars[::2]
    assert all(a.get("y") != b.get("y") for a, b in pairwise(whole))


def test_nothing_has_a_colour_of_light_or_dark_ground(figure: ET.Element) -> None:
    svg = figure.find("svg")
    assert svg is not None
    assert svg.get("fill") == "currentColor"
    assert not [text for text in figure.iter("text") if text.get("fill")]
