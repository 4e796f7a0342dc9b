"""The window in a real browser: a whole edit, wrong input, and things at the wrong moment."""

import json
import math
import secrets
import shutil
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from playwright.sync_api import Browser, Route, expect

from gui_mask import words
from maskora.app.workspace import Workspace
from maskora.config import set_values
from maskora.masks.files import read_labels, write_labels
from maskora.masks.shapes import static_box_labels
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.write import write_mp4
from tests.ball import draw_frame
from tests.gui_mask.window import CHROMIUM, Server, Window, serving
from tests.gui_mask.workspaces import copied, make_workspace
from tests.masks.trackers.tiny_sam2 import write_tiny_sam2
from tests.tiny_florence import write_tiny_florence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]
BALL = (50 / 320, 110 / 192)  # the ball's centre in frame 0, as shares of the picture
SLOWEST = 0.150  # seconds from moving the scrubber to the frame on the screen
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
def workspace(home: Path, unmarked: Workspace) -> Workspace:
    return copied(unmarked, home / f"ws-{secrets.token_hex(4)}")


@pytest.fixture
def other(home: Path, unmarked: Workspace) -> Workspace:
    """A second workspace."""
    return copied(unmarked, home / f"other-{secrets.token_hex(4)}")


@pytest.fixture
def window(page: Window, workspace: Workspace) -> Window:
    """A tab with the workspace open."""
    page.enter_ball(workspace)
    return page


@pytest.mark.timeout(900)
def test_the_dog_from_a_video_to_the_result(
    page: Window, home: Path, tmp_path: Path, real_clips: Path, tiny_model: Path
) -> None:
    shutil.copy(real_clips / "dog.mp4", home)
    window, tab = page, page.page
    window.picture("open")
    tab.get_by_label("Or type a path").fill("dog.mp4")
    window.press("Load video")
    window.message("1280×720, 289 frames")
    tab.get_by_role("combobox", name="Model preset").first.click()
    tab.get_by_role("option", name="tiny").click()
    expect(tab.get_by_label("Size").first).to_have_value("Keep aspect ratio (about 256×256)")
    tab.get_by_label("Frames").first.fill("21")
    tab.get_by_label("Size").first.fill("320x176")
    tab.get_by_label("Size").first.press("Enter")
    tab.get_by_label("Model location").first.fill(str(tiny_model))
    window.picture("begin")
    window.press("Create project")
    window.ready(21)
    workspace = Workspace(home / "dog-edit")
    window.tab(words.TABS["open"])
    expect(tab.get_by_role("button", name="Create project")).to_be_hidden()
    expect(tab.get_by_label("Or type a path")).to_have_value("")
    window.tab(words.TABS["mask"])

    window.drag(0.33, 0.50, 0.58, 0.82)
    window.follow()
    window.show(12)
    before = read_labels(workspace.tracked(12))
    window.press("Add point")
    window.click(0.45, 0.66)
    window.click(0.30, 0.40, button="right")
    window.follow()
    assert (read_labels(workspace.tracked(12)) != before).any()
    tab.get_by_label("Margin").first.fill("0.2")
    window.picture("mask")
    window.press("Save mask")
    window.message("Saved in")
    assert "margin = 0.2" in workspace.config.read_text()

    window.tab("3 · Edit")
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download frame 0").click()
    given = tmp_path / "given.png"
    download.value.save_as(given)
    image = read_image(given).copy()
    np.testing.assert_array_equal(image, read_image(workspace.source_frame(0)))
    inside = read_labels(workspace.mask(0)) > 0
    image[inside] = image[inside][:, ::-1]
    image[:20] //= 2
    write_png(given, image)
    window.upload("edited", given)
    window.message("Frame 0 is taken")
    window.message("of it differs from the source")
    for label, text in (("of the source", "a dog"), ("of edited frame 0", "a blue dog")):
        tab.get_by_label(f"Caption {label}").fill(text)
    for button in tab.get_by_role("button", name="Keep this caption").all():
        button.click()
    window.message("The caption is kept.")
    window.picture("edit")

    window.tab("4 · Run")
    window.message("RAM, GB")
    window.press("Train and generate")
    window.message("Running")
    tab.locator("video").first.wait_for(timeout=600_000)
    window.message("Done")
    tab.wait_for_function("document.querySelector('video').videoWidth === 1280")
    window.picture("run")
    result = probe(workspace.output_dir(None, None) / "edited.mp4")
    assert (result.frames, result.width, result.height) == (21, 1280, 720)
    assert (workspace.root / "source" / "00000.txt").read_text().strip() == "a dog"


def test_an_uploaded_video_stays_with_its_workspace(
    browser: Browser, server: Server, home: Path, rolling: Path, tiny_model: Path
) -> None:
    window = Window.open(browser, server.address, 1280, 720)
    window.upload("video", rolling)
    window.message("320×192, 9 frames")
    window.page.get_by_label("Size").fill("160x96")
    window.page.get_by_label("Size").press("Enter")
    window.page.get_by_label("Model location").first.fill(str(tiny_model))
    window.picture("begin")
    window.press("Create project")
    window.ready(9)
    window.click(*BALL)
    window.follow()
    window.picture("mask")
    window.tab("3 · Edit")
    window.message("None yet")
    window.picture("edit")
    window.tab("4 · Run")
    window.message("RAM, GB")
    window.picture("run")
    window.page.close()
    assert window.errors == []
    workspace = Workspace(home / "ball-edit")
    assert Path(workspace.read_source().origin) == workspace.original_dir / "ball.mp4"


def test_files_are_dropped_anywhere(
    page: Window, home: Path, boxed: Workspace, rolling: Path, tmp_path: Path
) -> None:
    page.drop(rolling)
    page.message("320×192, 9 frames")
    page.page.get_by_label("Project folder").last.fill("/etc/ws")
    page.press("Create project")
    expect(page.page.get_by_role("alert")).to_contain_text("--allow DIR")
    workspace = copied(boxed, home / f"ws-{secrets.token_hex(4)}")
    page.enter_ball(workspace)
    page.tab("3 · Edit")
    page.message("None yet")
    frames = {name: tmp_path / name for name in ("look_8.png", "look_0.png", "hat.png")}
    for file in frames.values():
        write_png(file, 255 - read_image(workspace.source_frame(0)))
    page.drop(frames["look_8.png"], frames["hat.png"])
    expect(page.page.get_by_role("alert")).to_contain_text("which frame is it?")
    page.drop(frames["look_8.png"], frames["look_0.png"])
    page.message("Frames 0, 8 are taken")
    assert workspace.edited_frame(None, 8, ".png").is_file()
    expect(page.page.get_by_role("alert")).to_be_hidden()
    page.page.get_by_label("Caption of the source").fill("a ball that rolls")
    page.tab("2 · Mask")
    page.tab("3 · Edit")
    expect(page.page.get_by_label("Caption of the source")).to_have_value("a ball that rolls")


def test_sixty_frames_scrub_without_a_wait(
    browser: Browser, tmp_path: Path, tiny_model: Path
) -> None:
    """61 frames of 832x480, a silhouette and a region drawn, in an order that nobody foresees."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (480, 832, 3), dtype=np.uint8)
    clip = tmp_path / "noise.mp4"
    write_mp4(clip, (np.roll(noise, 7 * n, axis=1) // (1 + n % 3) for n in range(61)), Fraction(16))
    workspace = make_workspace(tmp_path / "ws", clip, tiny_model, frames=61, size="832x480")
    with serving(tmp_path, "ws") as running:
        window = Window.open(browser, running.address)
        window.ready(61)
        window.drag(0.3, 0.3, 0.6, 0.7)
        seconds = [
            window.page.evaluate(
                """(frame) => new Promise((done) => {
                    const slider = document.querySelector('#viewer [data-frames]');
                    const canvas = document.querySelector('#viewer canvas');
                    const begun = performance.now();
                    const painted = () => done(performance.now() - begun);
                    const drawn = () => requestAnimationFrame(() => requestAnimationFrame(painted));
                    canvas.addEventListener('shown', drawn, {once: true});
                    slider.value = frame;
                    slider.dispatchEvent(new Event('input', {bubbles: true}));
                })""",
                int(frame),
            )
            / 1000
            for frame in random.permutation(61)
        ]
        window.page.close()
    print(
        f"scrubbing: median {np.median(seconds) * 1000:.0f} ms, most {max(seconds) * 1000:.0f} ms"
    )
    assert max(seconds) < SLOWEST
    assert workspace.tracking_record.is_file()


def test_clicks_corrections_and_undo(window: Window, workspace: Workspace) -> None:
    window.click(*BALL)
    assert (read_labels(workspace.tracked(0)) == 1).any()
    window.press("new object")
    window.click(0.9, 0.1)
    assert set(np.unique(read_labels(workspace.tracked(0)))) == {0, 1, 2}
    window.press("Undo")
    window.answered()
    assert set(np.unique(read_labels(workspace.tracked(0)))) == {0, 1}
    window.press("Clear frame")
    window.answered()
    assert not read_labels(workspace.tracked(0)).any()


def test_a_mask_is_painted_by_hand_and_followed(window: Window, workspace: Workspace) -> None:
    tab = window.page
    tab.keyboard.press("n")
    window.press("Brush")
    tab.locator("#viewer [data-size]").fill("6")
    window.stroke(0.12, 0.57, 0.2, 0.57)
    window.picture("painted")
    painted = read_labels(workspace.painted(0, 1)) > 0
    assert painted[54, 20:32].all()
    window.stroke(0.16, 0.45, 0.16, 0.7, button="right")
    assert not read_labels(workspace.painted(0, 1))[54, 26]
    assert (read_labels(workspace.tracked(0)) == read_labels(workspace.painted(0, 1))).all()
    window.press("Undo")
    window.answered()
    assert ((read_labels(workspace.painted(0, 1)) > 0) == painted).all()
    window.press("Redo")
    window.answered()
    window.press("Undo")
    window.answered()
    name = tab.get_by_label("name", exact=True)
    name.fill("the ball")
    name.press("Enter")
    window.answered()
    expect(tab.get_by_role("button", name="object 1")).to_have_text("the ball")
    tab.locator("#viewer [data-opacity]").fill("80")
    window.follow()
    assert ((read_labels(workspace.tracked(0)) > 0) == painted).all()
    assert read_labels(workspace.tracked(8)).any()
    size = tab.locator("#viewer [data-size]")
    before = int(size.input_value())
    window.canvas.hover()
    tab.locator("#viewer .viewer").press("]")
    assert int(size.input_value()) > before
    window.picture("named")


def test_following_without_a_click(window: Window) -> None:
    window.press("Track whole clip")
    expect(window.status).to_contain_text("nothing is clicked yet")
    window.press("Track forward")
    expect(window.status).to_contain_text("nothing is marked in frame 0")
    window.press("Save mask")
    window.message("nothing is marked")


def test_a_click_beside_the_picture(window: Window, workspace: Workspace) -> None:
    box = window.page.locator("#viewer .stage").bounding_box()
    assert box is not None
    window.page.mouse.click(box["x"] + 2, box["y"] + 5)
    time.sleep(0.5)
    assert not workspace.tracking_record.exists()


def test_an_object_that_leaves_the_picture(
    page: Window, home: Path, tmp_path: Path, tiny_model: Path
) -> None:
    def frame(number: int) -> np.ndarray:
        picture = np.full((96, 160, 3), (40, 110, 60), np.uint8)
        left = 90 + 18 * number
        picture[30:66, left : left + 36] = (230, 60, 40)
        return picture

    write_mp4(tmp_path / "leaves.mp4", (frame(n) for n in range(9)), Fraction(16))
    make_workspace(home / "leaves", tmp_path / "leaves.mp4", tiny_model)
    page.enter("leaves")
    page.ready(9)
    page.drag(0.54, 0.27, 0.82, 0.73)
    page.follow()
    expect(page.status).to_contain_text("object 1 is not seen in frames")
    page.press("Save mask")
    page.message("Saved in")


def test_what_is_no_video(window: Window, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("buy milk\n" * 50)
    window.tab("1 · Open")
    window.upload("video", tmp_path / "notes.mp4")
    window.message("notes.mp4")
    expect(window.page.get_by_role("button", name="Create project")).to_be_hidden()
    for path, refusal in (("/etc/passwd", "--allow DIR"), ("gone.mp4", "no such video")):
        window.page.get_by_label("Or type a path").fill(path)
        window.press("Load video")
        window.message(refusal)


def test_an_edited_frame_of_another_size(
    window: Window, workspace: Workspace, tmp_path: Path
) -> None:
    write_png(tmp_path / "small.png", np.zeros((50, 50, 3), np.uint8))
    window.tab("3 · Edit")
    window.upload("edited", tmp_path / "small.png")
    window.message("50x50")
    assert list(workspace.edits_dir.iterdir()) == []


def test_a_preview_before_anything_is_trained(page: Window, home: Path, boxed: Workspace) -> None:
    workspace = copied(boxed, home / f"ws-{secrets.token_hex(4)}")
    write_png(workspace.edited_frame(None, 0, ".png"), 255 - read_image(workspace.source_frame(0)))
    page.enter_ball(workspace)
    page.tab("4 · Run")
    page.message("maskora preview --config")
    page.press("Preview")
    page.page.locator("video").wait_for(timeout=600_000)
    page.message("preview is done")
    page.page.wait_for_function("document.querySelector('video').videoWidth === 480")
    page.picture("preview")
    assert not workspace.run_dir("motion").exists()


def test_a_long_clips_timeline_stands_above_its_plan(
    page: Window, home: Path, tiny_model: Path
) -> None:
    clip = home / "long.mp4"
    write_mp4(clip, (draw_frame(n, (60, 120, 220)) for n in range(25)), Fraction(16))
    workspace = make_workspace(
        home / f"ws-{secrets.token_hex(4)}", clip, tiny_model,
        "inference.segment=13", "inference.overlap=4", box="16,64,120,96", frames=25,
    )  # fmt: skip
    write_png(workspace.edited_frame(None, 0, ".png"), read_image(workspace.source_frame(0)))
    page.enter(workspace.root.name)
    page.ready(25)
    page.tab("4 · Run")
    page.message("25 frames in 3 segments; edited frames (◆): 0")
    page.message("RAM, GB")
    expect(page.page.locator(".plan svg[role=img]")).to_be_visible()
    page.picture("timeline")


def test_running_without_an_edited_frame(window: Window, workspace: Workspace) -> None:
    window.tab("4 · Run")
    window.press("Train and generate")
    window.message("is missing")
    assert not workspace.job_record.exists()


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux limits another process's files")
def test_a_full_disk_on_save(window: Window, server: Server, workspace: Workspace) -> None:
    """The server may write no file of more than 100 bytes, as on a disk that is full."""
    window.click(*BALL)
    window.follow()
    process = psutil.Process(server.process.pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (100, psutil.RLIM_INFINITY))
    try:
        window.press("Save mask")
        window.message("File too large")
        assert not workspace.masks_dir.exists()
        window.show(3)
        window.click(0.9, 0.1)
        expect(window.status).to_contain_text("still in this page")
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    window.press("Save mask")
    window.message("Saved in")
    assert (read_labels(workspace.silhouette(3)) == read_labels(workspace.tracked(3))).all()
    assert (workspace.tracking_dir / "before" / "00003.png").is_file()


def test_two_tabs_on_one_workspace(
    browser: Browser, window: Window, server: Server, workspace: Workspace
) -> None:
    other = Window.open(browser, server.address)
    other.enter_ball(workspace)
    window.click(*BALL)
    expect(other.page.locator("#viewer .ticks i")).to_have_count(1, timeout=15_000)
    other.show(2)
    other.press("new object")
    other.click(0.9, 0.1)
    window.follow()
    other.press("Save mask")
    other.message("Saved in")
    other.page.close()
    assert set(np.unique(read_labels(workspace.silhouette(2)))) == {0, 1, 2}


def test_sam2_and_the_captioner(window: Window, workspace: Workspace) -> None:
    """Real classes with random weights: what they answer is noise, that they answer is not."""
    write_tiny_sam2(workspace.root / "sam2")
    write_tiny_florence(workspace.root / "florence")
    set_values(workspace.config, {"caption.model": str(workspace.root / "florence")})
    window.press("Tracker ▼")
    window.page.get_by_label("SAM2: needs a checkpoint").check()
    window.page.get_by_label("SAM2 checkpoint").fill("nowhere/at/all")
    window.press("Apply")
    window.message("Tracker: sam2.")
    window.click(*BALL)
    expect(window.status).to_contain_text("[tracker] checkpoint")
    window.page.get_by_label("SAM2 checkpoint").fill("./sam2")
    window.press("Apply")
    window.page.wait_for_timeout(500)
    window.click(*BALL)
    expect(window.status).to_have_text("")
    window.follow()
    assert workspace.tracked(8).is_file()
    window.tab("3 · Edit")
    window.page.get_by_role("button", name="Write it for me").first.click()
    window.message("The caption is kept.")
    written = workspace.source_frame(0).with_suffix(".txt").read_text().strip()
    assert written
    expect(window.page.get_by_label("Caption of the source")).to_have_value(written)


def test_closing_the_page_loses_nothing(
    browser: Browser, server: Server, workspace: Workspace
) -> None:
    first = Window.open(browser, server.address)
    first.enter_ball(workspace)
    first.click(*BALL)
    first.press("Track whole clip")
    first.answered()
    first.page.reload()
    first.ready(9)
    first.page.close()
    second = Window.open(browser, server.address)
    second.enter_ball(workspace)
    expect(second.page.get_by_role("button", name="Stop", exact=True).first).to_be_hidden(
        timeout=60_000
    )
    expect(second.status).to_contain_text("tracking finished")
    second.press("Undo")
    second.answered()
    assert not read_labels(workspace.tracked(8)).any()
    assert read_labels(workspace.tracked(0)).any()
    second.page.close()


def prompts_of(workspace: Workspace) -> list[dict[str, str]]:
    """The clicks and boxes that were stored."""
    prompts: list[dict[str, str]] = json.loads(workspace.tracking_record.read_text())["prompts"]
    return prompts


def test_a_click_goes_to_the_clip_that_was_clicked(
    window: Window, workspace: Workspace, other: Workspace
) -> None:
    """Clicks that wait while another workspace is opened are not made there."""
    window.page.evaluate(SLOW_CLICKS)
    for share in (0.15, 0.2):
        window.page.mouse.click(*window.place(share, 0.57))
    window.enter(other.root.name)
    window.message(other.root.name)
    window.answered()
    assert len(prompts_of(workspace)) == 1
    assert not other.tracking_record.exists()


def test_a_lost_answer_is_asked_for_again(window: Window) -> None:
    window.click(*BALL)
    lost: list[str] = []

    def lose_one(route: Route) -> None:
        if not lost and '"view"' in (route.request.post_data or ""):
            lost.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    window.press("Track whole clip")
    window.answered()
    window.page.route(ASKED, lose_one)
    expect(window.page.get_by_role("button", name="Stop", exact=True).first).to_be_hidden()
    expect(window.page.get_by_role("button", name="Undo")).to_be_enabled()
    window.errors.clear()  # the browser notes the request that was cut off


def test_playing_ends_with_the_clip_that_played(window: Window, other: Workspace) -> None:
    window.press("play")
    window.enter(other.root.name)
    window.message(other.root.name)
    expect(window.page.get_by_role("button", name="play", exact=True)).to_have_text("Play")


def test_a_box_belongs_to_the_frame_that_it_was_drawn_on(
    window: Window, workspace: Workspace
) -> None:
    window.press("Box")
    window.page.mouse.move(*window.place(0.1, 0.4))
    window.page.mouse.down()
    window.page.mouse.move(*window.place(0.3, 0.7))
    window.page.keyboard.press("ArrowRight")
    window.page.keyboard.press("ArrowRight")
    window.page.mouse.up()
    window.answered()
    (prompt,) = prompts_of(workspace)
    assert prompt["box"].startswith("0,")


def test_every_corner_can_be_clicked(window: Window, workspace: Workspace) -> None:
    box = window.canvas.bounding_box()
    assert box is not None
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    # Within the outermost whole pixels of the screen: of a broken one, a part may not be shown.
    for x in (math.ceil(box["x"]) + 0.2, math.floor(right) - 0.2):
        for y in (math.ceil(box["y"]) + 0.2, math.floor(bottom) - 0.2):
            window.page.mouse.click(x, y)
            window.answered()
            expect(window.status).not_to_contain_text("outside")
    assert len(prompts_of(workspace)) == 4


def test_leave_to_replace_is_given_for_one_workspace(
    window: Window, workspace: Workspace, other: Workspace
) -> None:
    painted = static_box_labels((0, 0, 160, 96), 1, 96, 160)[0]
    for one in (workspace, other):
        window.enter(one.root.name)
        window.message(one.root.name)
        window.page.wait_for_timeout(500)
        window.click(*BALL)
        window.press("Save mask")
        window.message(f"{one.root.name}/masks")
        write_labels(one.mask(3), painted)
    window.enter(workspace.root.name)
    window.page.wait_for_timeout(1000)
    window.press("Save mask")
    window.page.get_by_label("Replace the masks that I painted").check()
    window.enter(other.root.name)
    window.page.wait_for_timeout(1000)
    window.press("Save mask")
    window.message("painted by hand since")
    assert read_labels(other.mask(3)).all()


@pytest.mark.parametrize("width", [1440, 1280, 800])
def test_every_page_is_as_wide_as_the_window_lets_it(
    browser: Browser, server: Server, home: Path, boxed: Workspace, width: int
) -> None:
    workspace = copied(boxed, home / f"ws-{secrets.token_hex(4)}")
    window = Window.open(browser, server.address, width)
    window.page.locator("#recent button").first.wait_for()
    window.picture("recent")
    window.enter_ball(workspace)
    for tab, place in ((words.TABS["mask"], "#viewer"), (words.TABS["edit"], "#easel")):
        window.tab(tab)
        keys = window.page.locator(place)
        keys.get_by_role("button", name="Keyboard and mouse").click()
        expect(keys.get_by_text("show or hide this list")).to_be_visible()
        window.picture(f"keys of {place[1:]}")
        window.page.keyboard.press("?")
        expect(keys.get_by_text("show or hide this list")).to_be_hidden()
    widths = set()
    for tab in words.TABS.values():
        window.tab(tab)
        if tab == words.TABS["run"]:
            window.message("RAM, GB")
        window.page.wait_for_timeout(500)
        widths.add(window.page.evaluate("document.querySelector('main').clientWidth"))
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
    window.picture("plan")
    assert len(widths) == 1, widths
    heights = window.page.locator(".plan pre .columns").evaluate_all(
        "lines => lines.map((line) => line.getBoundingClientRect().height)"
    )
    assert heights
    assert max(heights) < 24, "no line of the table is broken"
    window.page.close()
    assert window.errors == []


def test_an_objects_colour_and_the_masks_opacity_are_remembered(
    browser: Browser, server: Server, workspace: Workspace
) -> None:
    window = Window.open(browser, server.address)
    window.enter_ball(workspace)
    viewer = window.page.locator("#viewer")
    viewer.locator(".colour").fill("#123456")
    viewer.get_by_label("Mask opacity").fill("70")
    window.press("new object")
    expect(viewer.locator(".colour")).to_have_value("#3b82f6")
    window.page.reload()
    window.ready(9)
    expect(viewer.get_by_label("Mask opacity")).to_have_value("70")
    expect(viewer.locator(".colour")).to_have_value("#123456")
    expect(viewer.locator(".objects i").first).to_have_css("background-color", "rgb(18, 52, 86)")
    window.page.close()


def test_a_recent_project_is_opened_by_its_picture(page: Window, workspace: Workspace) -> None:
    workspace.config.touch()  # a copy is as old as what it was copied from
    page.page.reload()
    page.page.locator("#recent button", has_text=workspace.root.name).click()
    page.ready(9)
    page.message(workspace.root.name)


def test_before_and_after_under_one_line(page: Window, workspace: Workspace) -> None:
    folder = workspace.output_dir(None, None)
    folder.mkdir(parents=True)
    thirds = np.zeros((96, 480, 3), np.uint8)
    thirds[:, :160], thirds[:, 320:] = (200, 0, 0), (0, 0, 200)
    for name, picture in (("edited.mp4", thirds[:, 320:]), ("comparison.mp4", thirds)):
        write_mp4(folder / name, (picture for _ in range(9)), Fraction(16))
    (folder / "run.json").write_text("{}")
    page.enter_ball(workspace)
    page.tab("4 · Run")
    page.message("Result of the first edit, made")
    page.page.get_by_text("Before and after").click()
    canvas, edge = page.page.locator(".compare canvas"), page.page.locator(".compare input").first
    for share, colour in (("0", "2"), ("100", "0")):
        edge.fill(share)
        page.page.wait_for_function(
            """(strongest) => {
                const canvas = document.querySelector(".compare canvas");
                const [...pixel] = canvas.getContext("2d").getImageData(80, 48, 1, 1).data;
                return canvas.width === 160 && pixel[strongest] > 150;
            }""",
            arg=int(colour),
        )
    edge.fill("50")
    expect(canvas).to_be_visible()
    page.picture("compare")


def test_a_server_that_is_gone(browser: Browser, tmp_path: Path, unmarked: Workspace) -> None:
    copied(unmarked, tmp_path / "ws")
    with serving(tmp_path, "ws") as running:
        window = Window.open(browser, running.address)
        window.ready(9)
    window.click(*BALL)
    expect(window.status).to_contain_text("maskora does not answer")
    expect(window.status).not_to_contain_text("undefined")
    window.page.close()


def test_each_object_has_its_colour(window: Window) -> None:
    window.click(*BALL)
    window.page.keyboard.press("n")
    window.click(0.9, 0.1)
    dots = window.page.locator("#viewer .objects i")
    expect(dots).to_have_count(2)
    colours = [dot.evaluate("one => one.style.background") for dot in dots.all()]
    assert len(set(colours)) == 2
    window.picture("objects")


def test_a_mask_that_is_not_saved_is_saved_and_the_run_goes_on(
    page: Window, home: Path, boxed: Workspace
) -> None:
    workspace = copied(boxed, home / f"ws-{secrets.token_hex(4)}")
    write_png(workspace.edited_frame(None, 0, ".png"), 255 - read_image(workspace.source_frame(0)))
    page.enter_ball(workspace)
    page.page.get_by_label("Margin").first.fill("0.2")
    page.tab("4 · Run")
    page.press("Train")
    page.message("is not saved")
    page.picture("unsaved")
    page.press("Save mask and run")
    page.message("training is done")
    assert "margin = 0.2" in workspace.config.read_text()
    lines = page.page.locator("svg.loss polyline")
    expect(lines).to_have_count(1)
    page.message("motion")
    page.picture("trained")


def test_names_are_no_markup(window: Window, workspace: Workspace) -> None:
    """What a file is called is shown, and fetches nothing (the window's errors are looked at)."""
    (workspace.edits_dir / "![x](http:&#47;&#47;evil.invalid&#47;edit.png).png").touch()
    window.tab("3 · Edit")
    window.message("evil.invalid")


def test_a_server_on_another_port_is_given_no_cookie(browser: Browser, server: Server) -> None:
    """It may be another account's, and browsers send cookies to every port of a host."""
    given: list[str | None] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(self.headers["Cookie"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    page = Window.open(browser, server.address).page
    assert [cookie["name"] for cookie in page.context.cookies(page.url)] == ["maskora"]
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{other.server_port}/maskora/")
        page.close()
        other.shutdown()
    assert given
    assert set(given) == {None}
