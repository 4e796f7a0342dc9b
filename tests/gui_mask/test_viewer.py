"""The viewer when things happen at the wrong moment; in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from maskora.app.workspace import Workspace
from maskora.masks.files import read_labels, write_labels
from maskora.masks.shapes import static_box_labels
from tests.gui_mask.clips import make_workspace
from tests.gui_mask.test_browser import BALL
from tests.gui_mask.window import CHROMIUM, Server, Window, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]
ASKED = "**/component_server*"
SLOW_CLICKS = """() => {
    const send = window.fetch;
    window.fetch = async (...request) => {
        const slow = String(request[1]?.body).includes('"click"');
        if (slow) await new Promise((on) => setTimeout(on, 5000));
        return send(...request);
    };
}"""


@pytest.fixture
def first(tmp_path: Path, rolling: Path, tiny_model: Path) -> Workspace:
    return make_workspace(tmp_path / "first", rolling, tiny_model)


@pytest.fixture
def second(tmp_path: Path, rolling: Path, tiny_model: Path) -> Workspace:
    return make_workspace(tmp_path / "second", rolling, tiny_model)


@pytest.fixture
def server(tmp_path: Path, first: Workspace, second: Workspace) -> Iterator[Server]:
    with serving(tmp_path, "first") as running:
        yield running


def test_a_click_goes_to_the_clip_that_was_clicked(
    window: Window, first: Workspace, second: Workspace
) -> None:
    """Clicks that wait while another workspace is opened are not made there."""

    window.page.evaluate(SLOW_CLICKS)
    box = window.canvas.bounding_box()
    assert box is not None
    for share in (0.15, 0.2):
        window.page.mouse.click(box["x"] + share * box["width"], box["y"] + 0.57 * box["height"])
    window.enter("second")
    window.message("second")
    window.answered()
    assert len(json.loads(first.tracking_record.read_text())["prompts"]) == 1
    assert not second.tracking_record.exists()


def test_a_lost_answer_is_asked_for_again(window: Window) -> None:
    window.click(*BALL)
    lost: list[str] = []

    def lose_one(route: Route) -> None:
        if not lost and '"view"' in (route.request.post_data or ""):
            lost.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    window.press("Follow through the clip")
    window.answered()
    window.page.route(ASKED, lose_one)
    expect(window.page.get_by_role("button", name="Stop", exact=True).first).to_be_hidden()
    expect(window.page.get_by_role("button", name="Undo")).to_be_enabled()
    window.errors.clear()  # the browser notes the request that was cut off


def test_playing_ends_with_the_clip_that_played(window: Window) -> None:
    window.press("play")
    window.enter("second")
    window.message("second")
    expect(window.page.get_by_role("button", name="play", exact=True)).to_have_text("Play")


def test_a_box_belongs_to_the_frame_that_it_was_drawn_on(window: Window, first: Workspace) -> None:
    box = window.canvas.bounding_box()
    assert box is not None
    window.press("Box")
    window.page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.4 * box["height"])
    window.page.mouse.down()
    window.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.7 * box["height"])
    window.page.keyboard.press("ArrowRight")
    window.page.keyboard.press("ArrowRight")
    window.page.mouse.up()
    window.answered()
    (prompt,) = json.loads(first.tracking_record.read_text())["prompts"]
    assert prompt["box"].startswith("0,")


def test_every_corner_can_be_clicked(window: Window, first: Workspace) -> None:
    box = window.canvas.bounding_box()
    assert box is not None
    for x in (box["x"] + 0.2, box["x"] + box["width"] - 0.2):
        for y in (box["y"] + 0.2, box["y"] + box["height"] - 0.2):
            window.page.mouse.click(x, y)
            window.answered()
            expect(window.told).not_to_contain_text("outside")
    assert len(json.loads(first.tracking_record.read_text())["prompts"]) == 4


def test_another_tab_is_seen_by_itself(browser: Browser, window: Window, server: Server) -> None:
    other = Window.open(browser, server.address)
    other.ready(9)
    window.click(*BALL)
    expect(other.page.locator("#viewer .ticks i")).to_have_count(1, timeout=15_000)
    other.page.close()


def test_leave_to_replace_is_given_for_one_workspace(
    window: Window, first: Workspace, second: Workspace
) -> None:
    painted = static_box_labels((0, 0, 160, 96), 1, 96, 160)[0]
    for name, workspace in (("first", first), ("second", second)):
        window.enter(name)
        window.message(name)
        window.page.wait_for_timeout(500)
        window.click(*BALL)
        window.press("Save the masks")
        window.message(f"{name}/masks")
        write_labels(workspace.mask(3), painted)
    window.enter("first")
    window.page.wait_for_timeout(1000)
    window.press("Save the masks")
    window.page.get_by_label("Replace the masks that I painted").check()
    window.enter("second")
    window.page.wait_for_timeout(1000)
    window.press("Save the masks")
    window.message("painted by hand since")
    assert read_labels(second.mask(3)).all()


def test_names_are_no_markup(window: Window, first: Workspace) -> None:
    """What a file is called is shown, and fetches nothing (the window's errors are looked at)."""
    (first.edits_dir / "![x](http:&#47;&#47;evil.invalid&#47;edit.png).png").touch()
    window.tab("3 · Edit")
    window.message("evil.invalid")
