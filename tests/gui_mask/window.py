"""Driving the window in a real browser, as a person does."""

import base64
import mimetypes
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, expect

from maskora.app.workspace import Workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCREENSHOTS = os.environ.get("MASKORA_SCREENSHOTS")  # a folder to keep pictures of the pages in


@dataclass
class Server:
    """A running `maskora gui`."""

    process: subprocess.Popen[str]
    address: str  # as it is printed, with the token


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """Run `maskora gui` in a folder until the context is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "maskora", "gui", *arguments, "--port", str(port)]
    with (folder / "gui.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--no-browser"], cwd=folder, stdout=log, stderr=log, text=True
        )
    try:
        yield Server(process, _wait_for(process, folder / "gui.log"))
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(process: subprocess.Popen[str], log: Path) -> str:
    """The address that is printed, as soon as it answers."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        if printed := re.search(r"http://\S+", log.read_text()):
            # Without the token: a page is not asked for, but an answer.
            with (
                suppress(ConnectionError),
                closing(HTTPConnection(urlsplit(printed[0]).netloc)) as to,
            ):
                to.request("GET", "/")
                assert to.getresponse().status == 403
                return printed[0]
        time.sleep(0.1)
    raise AssertionError(f"nothing answers: {log.read_text()}")


@dataclass
class Window:
    """One tab.

    Attributes:
        errors: what the console called an error, uncaught exceptions, and requests to others.
    """

    page: Page
    address: str
    errors: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, address: str, width: int = 1440, height: int = 900) -> "Window":
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        window = cls(page, address)
        page.on(
            "console",
            lambda m: window._note(f"{m.text} {m.location}") if m.type == "error" else None,
        )
        page.on("pageerror", lambda error: window._note(str(error)))
        page.on("request", lambda request: window._check(request.url))
        page.goto(address)
        return window

    def _note(self, text: str) -> None:
        self.errors.append(text)

    def _check(self, url: str) -> None:
        if not url.startswith((self.address.partition("?")[0], "data:", "blob:")):
            self._note(f"request to {url}")

    @property
    def canvas(self) -> Locator:
        return self.page.locator("#viewer canvas")

    @property
    def status(self) -> Locator:
        return self.page.locator("#viewer .status")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def enter(self, workspace: str) -> None:
        """Open a workspace, perhaps another one."""
        self.tab("1 · Open")
        self.page.get_by_label("Project folder").first.fill(workspace)
        self.page.get_by_role("button", name="Open", exact=True).click()

    def upload(self, where: str, file: Path) -> None:
        """Give a file to one of the page's drop areas."""
        self.page.locator(f"#{where} input[type=file]").set_input_files(file)

    def drop(self, *files: Path) -> None:
        """Drop files on the page, beside its drop areas."""
        self.page.get_by_role("tab").first.wait_for()
        given = [
            (file.name, mimetypes.guess_type(file)[0], base64.b64encode(file.read_bytes()).decode())
            for file in files
        ]
        self.page.evaluate(
            """(given) => {
                const dataTransfer = new DataTransfer();
                for (const [name, type, data] of given) {
                    const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
                    dataTransfer.items.add(new File([bytes], name, { type }));
                }
                for (const type of ["dragover", "drop"]) {
                    const how = { dataTransfer, bubbles: true, cancelable: true };
                    document.querySelector("main").dispatchEvent(new DragEvent(type, how));
                }
            }""",
            given,
        )

    def enter_ball(self, workspace: Workspace) -> None:
        """Open a workspace of the rolling ball, and wait until it is shown."""
        self.enter(workspace.root.name)
        self.ready(9)

    def ready(self, frames: int) -> None:
        """Wait until the viewer has all frames."""
        expect(self.canvas).to_have_attribute("data-loaded", str(frames), timeout=60_000)

    def show(self, frame: int) -> None:
        """Move the scrubber."""
        self.page.locator("#viewer [data-frames]").fill(str(frame))
        expect(self.canvas).to_have_attribute("data-frame", str(frame))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a share of the picture's width and height lies in the page."""
        box = self.canvas.bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def click(self, x: float, y: float, button: str = "left") -> None:
        """Click the picture at a share of its width and height, and wait for the answer."""
        self.page.mouse.click(*self.place(x, y), button=button)  # type: ignore[arg-type]
        self.answered()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw a box, in shares of the picture."""
        self.press("Box")
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(x1, y1), steps=4)
        self.page.mouse.up()
        self.answered()

    def stroke(self, x0: float, y0: float, x1: float, y1: float, button: str = "left") -> None:
        """Draw with the tool that is chosen, in shares of the picture, and wait for the answer."""
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down(button=button)  # type: ignore[arg-type]
        self.page.mouse.move(*self.place(x1, y1), steps=4)
        self.page.mouse.up(button=button)  # type: ignore[arg-type]
        self.answered()

    def answered(self) -> None:
        """Wait until the last action is through."""
        self.page.wait_for_function(
            "!document.querySelector('#viewer canvas').dataset.waiting", timeout=120_000
        )

    def follow(self) -> None:
        """Follow the objects to the end."""
        self.press("Track whole clip")
        self.answered()
        expect(self.page.get_by_role("button", name="Stop", exact=True).first).to_be_hidden(
            timeout=240_000
        )

    def message(self, text: str) -> None:
        """Wait for a message on the page."""
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=60_000)

    def picture(self, name: str) -> None:
        """Keep a picture of the page where MASKORA_SCREENSHOTS names a folder."""
        if SCREENSHOTS:
            width = self.page.viewport_size["width"] if self.page.viewport_size else 0
            path = Path(SCREENSHOTS) / f"{name}-{width}.png"
            self.page.screenshot(path=str(path), full_page=True)


class EaselPage:
    """The easel in a tab."""

    def __init__(self, window: Window) -> None:
        self.window, self.page = window, window.page
        self.canvas: Locator = self.page.locator("#easel canvas")

    def place(self, x: float, y: float) -> tuple[float, float]:
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(x1, y1), steps=6)
        self.page.mouse.up()

    def press(self, name: str) -> None:
        self.page.locator("#easel").get_by_role("button", name=name, exact=True).click()

    def set(self, tool: str, key: str, value: object) -> None:
        self.page.locator(f"#easel [data-for={tool}] [data-key={key}]").fill(str(value))

    def done(self, steps: int) -> None:
        expect(self.canvas).to_have_attribute("data-done", str(steps), timeout=30_000)
        self.answered()

    def answered(self) -> None:
        self.page.wait_for_function(
            "!document.querySelector('#easel canvas').dataset.waiting", timeout=120_000
        )
