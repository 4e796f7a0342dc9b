"""What the window's tests share."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from gui_mask.state import AppState, PathGuard
from maskora.app.workspace import Workspace
from maskora.video.untrusted import Limits
from maskora.video.write import write_mp4
from tests.ball import draw_frame
from tests.gui_mask.window import CHROMIUM, SWITCHES, Server, Window, serving
from tests.gui_mask.workspaces import copied, make_workspace


@pytest.fixture(scope="session")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of a blue ball, 320x192."""
    path = tmp_path_factory.mktemp("clips") / "ball.mp4"
    write_mp4(path, (draw_frame(n, (60, 120, 220)) for n in range(9)), Fraction(16))
    return path


@pytest.fixture(scope="session")
def unmarked(
    tmp_path_factory: pytest.TempPathFactory, rolling: Path, tiny_model: Path
) -> Workspace:
    """The ball at 160x96, its mask still to be clicked; to copy."""
    return make_workspace(tmp_path_factory.mktemp("unmarked") / "ws", rolling, tiny_model)


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory, rolling: Path, tiny_model: Path) -> Workspace:
    """The same with a region around the ball, nothing edited yet; to copy."""
    root = tmp_path_factory.mktemp("boxed") / "ws"
    return make_workspace(root, rolling, tiny_model, box="16,64,120,96", start=0)


@pytest.fixture
def workspace(tmp_path: Path, unmarked: Workspace) -> Workspace:
    """A workspace to change, without a mask."""
    return copied(unmarked, tmp_path / "ws")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[AppState]:
    """A window's state in which the test's folder may be used."""
    (tmp_path / "scratch").mkdir()
    opened = AppState(PathGuard((tmp_path,)), Limits.of(), tmp_path / "scratch")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the program was started, and that the page may use."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path, tiny_model: Path, rolling: Path) -> Iterator[Server]:
    allowed = ["--allow", str(tiny_model.parent), "--allow", str(rolling.parent)]
    with serving(home, *allowed) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Window]:
    """A tab with no workspace open; whatever its console complains of fails the test."""
    opened = Window.open(browser, server.address)
    yield opened
    opened.page.close()
    assert opened.errors == []
