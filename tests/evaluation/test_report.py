"""The page and the file for programs: whole, self-contained, the same numbers."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from maskora.evaluation.judge import FrameSet, Truth, gather, gather_segments
from maskora.evaluation.report import (
    Picture,
    Report,
    as_json,
    as_page,
    draw_charts,
    pictures,
    report_on,
    shown_frames,
    summary,
)

FRAMES = 9


@pytest.fixture(scope="module")
def report() -> Report:
    rows = [
        {"outside_mse": 0.0, "hit_rate": 0.2 if n == 4 else 0.9, "warp_error": n and 2.0}
        for n in range(FRAMES)
    ]
    facts = {"file": "a & b.mkv", "edit": None, "frames": FRAMES}
    return report_on("my <edit>", facts, ["a note"], gather(rows))


@pytest.fixture(scope="module")
def album() -> dict[int, list[Picture]]:
    random = np.random.default_rng(0)
    inside = np.zeros((60, 900), bool)
    inside[10:40, 100:300] = True

    def frame() -> np.ndarray:
        return random.integers(0, 256, (60, 900, 3), dtype=np.uint8)

    return {
        number: pictures(FrameSet(frame(), frame(), inside, truth=Truth(frame(), inside, None)))
        for number in range(FRAMES)
    }


class Links(HTMLParser):
    """Everything that a page points at, and the text that it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "xlink:href"):
                self.links.append(value or "")
            if name == "id":
                self.anchors.add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page(report: Report, album: dict[int, list[Picture]]) -> None:
    page = as_page(report, album)
    parsed = Links(page)
    assert parsed.links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in parsed.links)
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= parsed.anchors
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)|<script", page), "nothing beside itself"
    assert "frame 4 stands out: Hit rate 0.200 (median 0.900)" in parsed.text
    assert "Outside the mask all 9 frames are identical to the source" in parsed.text
    assert "No known issue" in parsed.text
    assert "a note" in parsed.text
    assert "my &lt;edit&gt;" in page, "what people name is not taken for markup"
    assert "a &amp; b.mkv" in page
    shown = {int(name[6:]) for name in parsed.anchors if name.startswith("frame-")}
    assert {0, 4, FRAMES - 1} <= shown, "spread over the clip, the worst among them"
    short = as_page(report_on("short", {}, [], gather([{}])), {0: album[0]})
    assert "the mask covers the whole picture" in short.lower()


def test_segments_have_a_table_and_lines_in_the_charts(
    report: Report, album: list[list[Picture]]
) -> None:
    assert report.segments == ()
    assert "segments" not in as_json(report)
    assert "Segment by segment" not in as_page(report, album)
    rows = [{"outside_mse": 0.0, "edit_colours": 1.0 if n < 5 else 0.4} for n in range(FRAMES)]
    long = report_on("", {}, [], gather(rows), gather_segments(rows, [0, 5]))
    assert as_json(long)["segments"] == [
        {"number": 1, "start": 0, "stop": 5,
         "means": {"outside_psnr": "identical", "edit_colours": 1.0}},
        {"number": 2, "start": 5, "stop": 9,
         "means": {"outside_psnr": "identical", "edit_colours": 0.4}},
    ]  # fmt: skip
    assert [sign.name for sign in long.signs] == ["vanished", "segments"]
    text = " ".join(Links(as_page(long, album)).text.split())
    assert "Segment Frames PSNR outside the mask Colours of the edit kept" in text
    assert "1 0–4 identical 1.00 2 5–8 identical 0.40" in text
    ((_, plain),) = draw_charts(long.numbers)
    ((_, lined),) = draw_charts(long.numbers, [0, 5])
    assert lined.count("stroke-dasharray") == plain.count("stroke-dasharray") + 1


def test_colours_are_left_to_the_style_sheet(report: Report) -> None:
    charts = dict(draw_charts(report.numbers))
    assert set(charts) == {"Warp error inside, levels", "Hit rate against the truth"}
    for svg in charts.values():
        assert "var(--line-1)" in svg
        assert "currentColor" in svg
        assert "#0101" not in svg


def test_large_frames_are_made_small(album: dict[int, list[Picture]]) -> None:
    assert [picture.title for picture in album[0]] == [
        "source, with the mask", "result", "truth", "difference to the source, × 4",
    ]  # fmt: skip
    assert max(len(picture.url) for picture in album[0]) < 60_000


def test_json_and_the_summary_have_the_same_numbers(report: Report) -> None:
    content = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert content["means"]["outside_psnr"] == "identical"
    assert content["curves"]["hit_rate"][4] == 0.2
    assert content["verdict"]["signs"] == []
    assert content["verdict"]["worst_frames"] == [
        {"frame": 4, "key": "hit_rate", "value": 0.2, "typical": 0.9}
    ]
    assert set(content["measures"]) == set(content["curves"])
    assert summary(report) == [
        "outside the mask all 9 frames are identical to the source",
        "against the truth: hit rate 0.822",
        "no known issue",
        "frame 4 stands out: Hit rate 0.200 (median 0.900)",
    ]


def test_identical_frames_are_told_so_in_words_and_in_json() -> None:
    report = report_on("", {}, [], gather([{"outside_mse": 5.0 * (n == 3)} for n in range(FRAMES)]))
    content = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert content["verdict"]["worst_frames"] == [
        {"frame": 3, "key": "outside_psnr", "value": pytest.approx(41.1, abs=0.1),
         "typical": "identical"}
    ]  # fmt: skip
    assert summary(report)[-1] == (
        "frame 3 stands out: PSNR outside the mask 41.1 dB (median identical)"
    )


def test_what_only_compression_has_changed_does_not_alarm() -> None:
    """An mp4 is never identical: a PSNR of 53 dB is nothing that a person sees."""
    loss = 255**2 / 10**5.3
    numbers = gather([{"outside_mse": loss} for _ in range(FRAMES)])
    (line, *_) = summary(report_on("", {}, [], numbers))
    assert line.startswith("outside the mask no frame differs visibly from the source; PSNR 53.0")
    numbers = gather([{"outside_mse": 50.0 if n == 3 else loss} for n in range(FRAMES)])
    (line, *_) = summary(report_on("", {}, [], numbers))
    assert line.startswith("outside the mask 0 of 9 frames are identical")


def test_a_short_clip_is_shown_whole_and_of_a_longer_one_is_said_what_is_left_out(
    report: Report, album: dict[int, list[Picture]]
) -> None:
    assert shown_frames(report) == [*range(FRAMES)]
    assert "spread over the clip" not in as_page(report, album)
    long = report_on("", {}, [], gather([{"outside_mse": 0.0} for _ in range(49)]))
    shown = shown_frames(long)
    assert (shown[0], shown[-1], len(shown)) == (0, 48, 6)
    text = Links(as_page(long, dict.fromkeys(shown, album[0]))).text
    assert "6 of 49 frames: some spread over the clip" in text
