"""The loop in a real browser: looked at while training, compared, touched up, and run again."""

import secrets
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from gui_mask import jobs
from gui_mask.waiting import queue_file, read_queue
from maskora.app.workspace import Workspace
from maskora.config import set_values
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from tests.gui_mask.window import CHROMIUM, EaselPage, Window
from tests.gui_mask.workspaces import copied

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module", autouse=True)
def no_queue() -> None:
    """What other tests have left waiting is forgotten."""
    queue_file().unlink(missing_ok=True)


@pytest.fixture
def edited(home: Path, boxed: Workspace) -> Workspace:
    """A workspace with an edited first frame."""
    workspace = copied(boxed, home / f"ws-{secrets.token_hex(4)}")
    write_png(workspace.edited_frame(None, 0, ".png"), 255 - read_image(workspace.source_frame(0)))
    return workspace


def pictures(page: Window, name: str) -> None:
    """The page on wide and narrow screens."""
    for width in (1440, 1280, 800):
        page.page.set_viewport_size({"width": width, "height": 900})
        page.page.wait_for_timeout(500)
        page.picture(name)
    page.page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.timeout(900)
def test_looked_at_compared_touched_up_and_run_again(page: Window, edited: Workspace) -> None:
    set_values(edited.config, {"motion.steps": 4, "training.preview_every": 2})
    tab = page.page
    page.enter_ball(edited)
    page.tab("4 · Run")
    page.message("RAM, GB")
    page.message("on this machine")
    page.press("Train and generate")
    expect(tab.locator(".previews figure")).to_have_count(2, timeout=300_000)
    page.message("motion, step 4")
    expect(tab.locator(".results > video")).to_be_visible(timeout=300_000)
    expect(tab.locator(".versions li")).to_have_count(1)
    set_values(edited.config, {"inference.seed": 5})
    page.press("Generate")
    expect(tab.locator(".versions li")).to_have_count(2, timeout=300_000)
    page.message("changed: seed 5 (was 0)")

    first = tab.locator(".versions li").last
    first.get_by_role("button", name="Call it the best").click()
    expect(first.locator(".star")).to_have_attribute("aria-pressed", "true")
    first.get_by_role("button", name="Compare").click()
    canvas = tab.locator(".compare canvas")
    expect(canvas).to_be_visible()
    tab.wait_for_function("document.querySelector('.compare canvas').width === 160")
    tab.locator("[data-view]").select_option("beside")
    tab.wait_for_function("document.querySelector('.compare canvas').width === 320")
    tab.locator("[data-view]").select_option("difference")
    tab.wait_for_function("document.querySelector('.compare canvas').width === 160")
    tab.locator("[data-view]").select_option("line")
    tab.locator(".compare input").last.fill("3")
    expect(tab.locator("output.frame")).to_have_text("3")
    pictures(page, "loop")
    left = tab.locator("[data-side=left]").input_value()
    newest = tab.locator(".versions li").first
    newest.get_by_role("button", name="Call it the best").click()  # the list is laid out anew
    expect(newest.locator(".star")).to_have_attribute("aria-pressed", "true")
    expect(canvas).to_be_visible()
    tab.wait_for_function("document.querySelector('.compare canvas').dataset.frame === '3'")
    expect(tab.locator("[data-side=left]")).to_have_value(left)
    tab.get_by_text("Before and after").click()
    newest.locator(".star").click()
    expect(newest.locator(".star")).to_have_attribute("aria-pressed", "false")
    expect(canvas).to_be_hidden()  # what was closed by hand stays so
    tab.get_by_text("Before and after").click()
    tab.locator(".compare input").last.fill("3")

    tab.get_by_role("button", name="This frame is wrong").click()
    expect(tab.get_by_role("tab", name="3 · Edit")).to_have_attribute("aria-selected", "true")
    expect(tab.locator("#easel canvas")).to_have_attribute("data-frame", "3", timeout=60_000)
    expect(tab.locator("#easel canvas")).to_have_attribute("data-done", "1")
    assert edited.edited_frame(None, 3, ".png").is_file()
    page.tab("4 · Run")
    expect(tab.get_by_role("button", name="This frame is wrong")).to_be_enabled()
    page.press("Train and generate")
    expect(tab.locator(".versions li")).to_have_count(3, timeout=300_000)
    page.message("frame 3 edited")
    assert len(list(edited.output_dir(None, None).glob("00*/edited.mp4"))) == 2


@pytest.mark.timeout(900)
def test_the_man_walking_twice_round_with_nothing_but_the_page(
    page: Window, home: Path, real_clips: Path, tiny_model: Path
) -> None:
    shutil.copy(real_clips / "man_walking" / "source.mp4", home / "man.mp4")
    tab = page.page
    tab.get_by_label("Or type a path").fill("man.mp4")
    page.press("Load video")
    page.message("16 frames")
    tab.get_by_role("combobox", name="Model preset").first.click()
    tab.get_by_role("option", name="tiny").click()
    expect(tab.get_by_label("Size").first).to_have_value("Keep aspect ratio (about 256×256)")
    tab.get_by_label("Frames").first.fill("9")
    tab.get_by_label("Size").first.fill("160x96")
    tab.get_by_label("Size").first.press("Enter")
    tab.get_by_label("Model location").first.fill(str(tiny_model))
    pictures(page, "man-open")
    page.press("Create project")
    page.ready(9)
    workspace = Workspace(home / "man-edit")

    page.drag(0.3, 0.1, 0.7, 0.98)
    page.follow()
    pictures(page, "man-mask")
    page.press("Save mask")
    page.message("Saved in")

    page.tab("3 · Edit")
    easel = EaselPage(page)
    easel.done(0)
    easel.set("recolour", "hue", 120)
    easel.press("Apply")
    easel.done(1)
    for label, text in (("of the source", "a man"), ("of edited frame 0", "a green man")):
        tab.get_by_label(f"Caption {label}").fill(text)
    # What was typed while the list was laid out anew is there, and is kept without being asked.
    expect(tab.get_by_label("Caption of the source")).to_have_value("a man")
    tab.get_by_label("Caption of edited frame 0").blur()
    pictures(page, "man-edit")
    for image in (workspace.source_frame(0), workspace.edited_frame(None, 0, ".png")):
        assert image.with_suffix(".txt").read_text().strip().startswith("a ")

    page.tab("4 · Run")
    page.message("RAM, GB")
    page.press("Preview")
    page.message("preview is done")
    page.press("Train and generate")
    expect(tab.locator(".versions li")).to_have_count(1, timeout=300_000)
    tab.get_by_text("Before and after").click()
    tab.wait_for_function("document.querySelector('.compare canvas').dataset.frame > 0")
    tab.locator(".compare input").last.fill("4")
    expect(tab.locator("output.frame")).to_have_text("4")
    tab.get_by_role("button", name="This frame is wrong").click()
    expect(easel.canvas).to_have_attribute("data-frame", "4", timeout=60_000)
    easel.done(1)
    easel.set("recolour", "saturation", 60)
    easel.press("Apply")
    easel.done(2)
    tab.get_by_label("Caption of edited frame 4").fill("a green man")
    tab.get_by_label("Caption of edited frame 4").blur()
    assert workspace.edited_frame(None, 4, ".png").is_file()
    page.tab("4 · Run")
    page.press("Train and generate")
    expect(tab.locator(".versions li")).to_have_count(2, timeout=300_000)
    page.message("Done")
    pictures(page, "man-run")
    result = probe(workspace.output_dir(None, None) / "edited.mp4")
    original = probe(home / "man.mp4")
    assert (result.width, result.height) == (original.width, original.height)


@pytest.mark.timeout(600)
def test_jobs_of_two_projects_wait_for_each_other(
    page: Window, edited: Workspace, home: Path, boxed: Workspace
) -> None:
    other = copied(boxed, home / f"other-{secrets.token_hex(4)}")
    set_values(other.config, {"motion.steps": 100_000})
    jobs.start(other, "train", None)
    try:
        page.enter_ball(edited)
        page.tab("4 · Run")
        page.press("Train")
        page.message("Waiting for their turn")
        page.message("Waits for its turn")
        pictures(page, "queue")
        page.press("Take out")
        expect(page.page.locator(".queue [data-ticket]")).to_have_count(0)
        assert read_queue().waiting == []
        page.press("Train")
        expect(page.page.locator(".queue [data-ticket]")).to_have_count(1, timeout=60_000)
    finally:
        jobs.stop(other)
    expect(page.page.get_by_text("training is done")).to_be_visible(timeout=300_000)
    expect(page.page.locator(".queue [data-ticket]")).to_have_count(0)


def test_a_preset_is_chosen(page: Window, edited: Workspace) -> None:
    tab = page.page
    page.enter_ball(edited)
    page.tab("4 · Run")
    page.message("The settings are your own")
    tab.get_by_label("Draft").check()
    expect(tab.get_by_text("The settings are your own")).to_be_hidden()
    assert 'lora = "none"' in edited.config.read_text()
    page.message("RAM, GB")
    pictures(page, "presets")
