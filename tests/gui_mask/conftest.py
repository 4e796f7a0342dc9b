"""What the window's tests share."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from maskora.video.write import write_mp4
from tests.ball import draw_frame
from tests.gui_mask.window import CHROMIUM, SWITCHES, Server, Window


@pytest.fixture(scope="session")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of a blue ball, 320x192."""
    path = tmp_path_factory.mktemp("clips") / "ball.mp4"
    write_mp4(path, (draw_frame(n, (60, 120, 220)) for n in range(9)), Fraction(16))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser, server: Server) -> Iterator[Window]:
    """A tab on the module's own `server`; whatever its console complains of fails the test."""
    opened = Window.open(browser, server.address)
    opened.ready(9)
    yield opened
    opened.page.close()
    assert opened.errors == []
