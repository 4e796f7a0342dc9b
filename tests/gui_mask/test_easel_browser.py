"""The first frame edited with nothing but the page, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from gui_mask import words
from maskora.app.retouching import FrameEdit
from maskora.app.workspace import Workspace, caption_beside
from maskora.config import load_config, set_values
from maskora.masks.files import read_labels
from maskora.video.images import read_image, write_png
from tests.gui_mask.window import CHROMIUM, EaselPage, Window, serving
from tests.gui_mask.workspaces import copied
from tests.tiny_editors import write_sdxl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]
BALL = (25 / 160, 54 / 96)  # in frame 0, as shares of the picture


@pytest.fixture
def workspace(tmp_path: Path, boxed: Workspace) -> Workspace:
    return copied(boxed, tmp_path / "ws")


@pytest.fixture
def easel(browser: Browser, tmp_path: Path, workspace: Workspace) -> Iterator[EaselPage]:
    with serving(tmp_path, "ws") as running:
        window = Window.open(browser, running.address, 1280, 800)
        window.message("ws")
        window.ready(9)
        window.tab("3 · Edit")
        page = EaselPage(window)
        page.done(0)
        yield page
        window.page.close()
    assert window.errors == []


def written(workspace: Workspace, frame: int = 0) -> np.ndarray:
    """The edited frame; outside the region it is the source."""
    picture = read_image(workspace.edited_frame(None, frame, ".png"))
    outside = read_labels(workspace.mask(frame)) == 0
    assert np.array_equal(picture[outside], read_image(workspace.source_frame(frame))[outside])
    return picture


def test_a_caption_is_kept_as_it_is_typed_pasted_and_deleted(
    easel: EaselPage, workspace: Workspace
) -> None:
    write_png(workspace.edited_frame(None, 0, ".png"), 255 - read_image(workspace.source_frame(0)))
    image = workspace.edited_frame(None, 0, ".png")
    image.with_suffix(".txt").write_text("a ball\n")
    page = easel.page
    page.get_by_role("tab", name="4 · Run").click()
    page.get_by_role("tab", name="3 · Edit").click()
    box = page.get_by_label("Caption of edited frame 0")
    expect(box).to_have_value("a ball")
    expect(box).to_be_enabled()

    def kept(text: str) -> None:
        expect(box).to_have_value(text)
        for _ in range(50):
            if (caption_beside(image) or "") == text:
                return
            page.wait_for_timeout(100)
        raise AssertionError(f"{caption_beside(image)!r} is kept, not {text!r}")

    box.focus()
    page.keyboard.press("End")
    page.keyboard.type(" of gold")
    kept("a ball of gold")
    for _ in " gold":
        page.keyboard.press("Backspace")
    kept("a ball of")
    page.keyboard.insert_text(" glass")  # as what is pasted
    kept("a ball of glass")
    easel.set("recolour", "hue", 90)
    easel.press("Apply")
    easel.done(1)
    expect(box).to_have_value("a ball of glass")
    expect(box).to_be_enabled()
    image.with_suffix(".txt").write_text("another hand\n")
    box.focus()
    box.blur()
    page.wait_for_timeout(1000)
    assert caption_beside(image) == "another hand", "nothing was typed here"


def test_the_first_frame_is_edited_in_the_page(
    easel: EaselPage, workspace: Workspace, tmp_path: Path
) -> None:
    source = read_image(workspace.source_frame(0))
    easel.set("recolour", "hue", 150)
    easel.page.wait_for_timeout(500)
    easel.answered()
    easel.window.picture("easel-recolour")
    easel.press("Apply")
    easel.done(1)
    assert not np.array_equal(written(workspace), source)

    easel.press("Paint")
    easel.set("paint", "colour", "#20e040")
    easel.set("paint", "radius", 4)
    easel.drag(BALL[0], BALL[1], BALL[0] + 0.05, BALL[1])
    easel.done(2)
    x, y = round(160 * BALL[0]), round(96 * BALL[1])
    assert written(workspace)[y, x].tolist() == [0x20, 0xE0, 0x40]
    easel.press("Eraser")
    easel.set("restore", "radius", 3)
    easel.drag(BALL[0], BALL[1], BALL[0], BALL[1] + 0.01)
    easel.done(3)
    assert np.array_equal(written(workspace)[y, x], source[y, x])

    hat = np.zeros((20, 30, 4), np.uint8)
    hat[2:18, 2:28] = (250, 200, 0, 255)
    write_png(tmp_path / "hat.png", hat)
    easel.press("Place picture")
    easel.page.locator("#easel input[data-file=picture]").set_input_files(tmp_path / "hat.png")
    easel.answered()
    easel.drag(42 / 160, 0.58, 45 / 160, 0.55)
    easel.set("place", "angle", -20)
    easel.window.picture("easel-place")
    easel.page.locator("#easel [data-apply=place]").click()
    easel.done(4)
    assert (np.abs(written(workspace).astype(int) - (250, 200, 0)).max(axis=-1) < 3).sum() > 40

    easel.press("Undo")
    easel.done(3)
    easel.press("Redo")
    easel.done(4)
    easel.window.message("Frame 0: as in the video, and edited")
    easel.window.picture("easel-done")
    by_shell = FrameEdit(workspace, load_config(workspace.config), None, 0)
    assert np.array_equal(by_shell.picture(), written(workspace))


def test_a_slow_look_does_not_say_working_for_ever(easel: EaselPage) -> None:
    easel.page.evaluate(
        """() => {
            const send = window.fetch;
            window.fetch = async (...request) => {
                const slow = String(request[1]?.body).includes('"look"');
                if (slow) await new Promise((on) => setTimeout(on, 1500));
                return send(...request);
            };
        }"""
    )
    status = easel.page.locator("#easel .status")
    easel.page.get_by_label("Frame").last.fill("3")
    easel.page.get_by_label("Frame").last.press("Enter")
    expect(status).to_have_text(words.EASEL["working"])
    expect(easel.canvas).to_have_attribute("data-frame", "3")
    easel.answered()
    expect(status).to_have_text("")


def test_a_colour_is_picked_and_another_frame_copied(
    easel: EaselPage, workspace: Workspace
) -> None:
    easel.press("Replace colour")
    easel.page.mouse.click(*easel.place(*BALL))
    easel.answered()
    picked = easel.page.locator("#easel [data-for=swap] [data-key=source]").input_value()
    x, y = round(160 * BALL[0]), round(96 * BALL[1])
    here = read_image(workspace.source_frame(0))[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
    assert picked in {"#" + bytes(one.tolist()).hex() for one in here}
    easel.page.locator("#easel [data-apply=swap]").click()
    easel.done(1)
    easel.page.get_by_role("slider", name="Frame").last.fill("4")
    expect(easel.canvas).to_have_attribute("data-frame", "4", timeout=30_000)
    easel.press("Carry the look")
    expect(easel.page.locator("#easel .no-lora")).to_have_text(words.EASEL["not_trained"])
    expect(easel.page.get_by_role("button", name="Carry it here")).to_be_disabled()
    easel.press("Copy frame")
    easel.page.locator("#easel [data-for=copy] [data-key=edited]").check()
    easel.page.locator("#easel [data-apply=copy]").click()
    easel.done(1)
    written(workspace, 4)
    easel.page.locator("#easel [data-apply=result]").click()
    expect(easel.page.locator("#easel .status")).to_contain_text("infer.py")


def test_a_model_makes_candidates_and_one_is_taken(easel: EaselPage, workspace: Workspace) -> None:
    write_sdxl(workspace.root / "sdxl")
    editor = {"model": "sdxl", "steps": 2, "megapixels": 0.015}
    set_values(workspace.config, {f"editor.{key}": value for key, value in editor.items()})
    easel.press("Ask a model")
    easel.answered()
    easel.page.get_by_label("instruction").fill("an orange ball")
    easel.set("instruct", "candidates", 2)
    easel.page.locator("#easel [data-apply=instruct]").click()
    second = easel.page.get_by_role("button", name="candidate 2")
    expect(second).to_be_visible(timeout=200_000)
    easel.window.picture("easel-candidates")
    second.click()
    easel.done(1)
    chosen = read_image(workspace.candidates(None, 0) / "2.png")
    inside = read_labels(workspace.mask(0)) > 0
    made = written(workspace)
    assert (made[inside] != read_image(workspace.source_frame(0))[inside]).any()
    assert np.abs(made.astype(int) - chosen).mean() < 20
