"""The program behind the window: a web server for this machine alone, unless asked otherwise."""

import ipaddress
import os
import re
import secrets
import tempfile
import threading
import time
import webbrowser
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gui_mask import edits, words
from gui_mask.errors import caught, plain
from gui_mask.pages import SILENT
from gui_mask.pages.editing import EditPage
from gui_mask.pages.mask import MaskPage
from gui_mask.pages.opening import OpeningPage, summary
from gui_mask.pages.running import RunPage
from gui_mask.state import AppState, PathGuard
from maskora.app.versions import version_folder
from maskora.app.workspace import PREVIEW_NAME
from maskora.files import digest
from maskora.video.untrusted import Limits

Output = Literal["edited.mp4", "comparison.mp4", "strip.png", "preview.mp4"]
# The page itself may run its own code (gr.HTML evaluates its script), and asks no other address.
GUARDS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
COOKIE = "maskora"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a token's frames never change
DROP = files("gui_mask.pages").joinpath("drop.js").read_text(encoding="utf-8")
THEME = gr.themes.Default(
    primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)
STYLE = """
.gradio-container { width: 100% !important; max-width: 1500px !important; margin: 0 auto; }
.plan pre, .log pre { font: 13px/1.4 ui-monospace, monospace; }
.log pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.plan pre { overflow-x: auto; font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
.plan pre .columns { white-space: pre; }
#recent, #recent .grid-wrap { height: auto !important; min-height: 0; max-height: none; }
#recent .caption-label { left: 0; right: 0; max-width: none; white-space: normal; }
#recent .grid-container { grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); }
#recent button { aspect-ratio: 16 / 9; }
.work > .block:not(.log):has(.prose:empty) { display: none; }
@media (max-width: 900px) { .run .work { order: -1; } }
svg.loss { width: 100%; height: auto; }
svg.loss text { font: 11px system-ui; fill: currentColor; }
.links a { display: inline-block; margin: 4px 8px 0 0; padding: 6px 12px; border-radius: 6px; }
.links a { background: var(--button-secondary-background-fill); color: inherit; }
.links a { text-decoration: none; font-size: 14px; }
.commands .cm-content { padding-right: 76px !important; }
.compare { margin: 8px 0; }
.compare summary { cursor: pointer; font-weight: 600; }
.compare canvas { width: 100%; height: auto; display: block; margin: 8px 0; cursor: pointer; }
.compare label { display: flex; gap: 12px; font-size: 13px; white-space: nowrap; }
.compare input { flex: 1; min-width: 60px; }
.wrong { padding: 0 2px; }
.wrong span { color: #e5484d !important; font-weight: 600; overflow-wrap: anywhere; }
.hint p { font-size: 13px !important; line-height: 1.4; opacity: .75; }
.dropping { outline: 3px dashed var(--color-accent); outline-offset: -3px; border-radius: 8px; }
footer { display: none !important; }
"""


def serve(
    workspace: str, host: str, port: int, allowed: list[Path], limits: Limits, browser: bool
) -> None:
    """Run until Ctrl-C.

    Args:
        workspace: to begin with; "" for none.
        host: address to listen on.
        allowed: folders that whoever sees the page may read and write.
        browser: open one.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with (
        # Windows removes no file that a page is still fetching; the system empties the place.
        tempfile.TemporaryDirectory(prefix="maskora-gui-", ignore_cleanup_errors=True) as scratch,
        closing(AppState(PathGuard(tuple(allowed)), limits, Path(scratch), workspace)) as state,
    ):
        os.environ["GRADIO_TEMP_DIR"] = scratch  # uploads are gone when the program is
        token = secrets.token_urlsafe(16)
        code = Code()
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        app = web_app(state, host, port, token, code)
        print(f"maskora gui: {address}?token={token}", end="   ")
        print("(Ctrl-C ends it; the work is in the workspace)", flush=True)
        print(f"folders that the page may use: {', '.join(map(str, allowed))}")
        if not _is_local(host):
            print("whoever has this address may use them")
        if browser:
            # Other accounts see what programs are started with: the token is not among it.
            threading.Timer(1.5, webbrowser.open, [f"{address}?code={code.text}"]).start()
        # A page keeps a connection open for as long as it is shown: it is not waited for.
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)


class Code:
    """What lets one browser in: once, within a minute of its making."""

    def __init__(self, seconds: float = 60) -> None:
        self.text = secrets.token_urlsafe(16)
        self._ends = time.monotonic() + seconds

    def take(self, text: str) -> bool:
        """Whether the text lets in; it does not a second time."""
        is_right = _is_same(text, self.text) and time.monotonic() < self._ends
        if is_right:
            self._ends = 0.0
        return is_right


def web_app(state: AppState, host: str, port: int, token: str, code: Code) -> FastAPI:
    """The pages, and beside them the pictures and videos that they show.

    Args:
        token: whoever has it may use them.
        code: gives the token to the first who brings it.
    """
    place = f"/{digest(token)}"
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, host=host, place=place, token=token, code=code)
    _serve_files(app, state)
    blocks = build(state)
    # Gradio sets this in launch() alone, and checks only then that a file was really uploaded.
    blocks.has_launched = True
    return gr.mount_gradio_app(
        app, blocks, path="/", server_name=host, server_port=port, footer_links=[],
        allowed_paths=[], max_file_size=state.limits.max_bytes, show_error=True, ssr_mode=False,
        theme=THEME, css=STYLE, js=DROP, pwa=False, mcp_server=False, enable_monitoring=False,
    )  # fmt: skip


def build(state: AppState) -> gr.Blocks:
    """All pages, and how a workspace is entered."""
    with gr.Blocks(title="maskora", analytics_enabled=False, fill_width=True) as app:
        token = gr.State("")
        # What was open last since the program was started: its workspace comes before older ones.
        last = gr.BrowserState(["", ""], storage_key="maskora-workspace", secret="maskora")
        head = gr.Markdown(words.INTRODUCTION)
        with gr.Tabs(selected="open") as tabs:

            def enter(text: str) -> list[Any]:
                session = state.open(text)
                kept = [state.run, str(session.workspace.root)]
                return [session.token, kept, summary(session), gr.Tabs(selected="mask")]

            entered = [token, last, head, tabs]
            with gr.Tab(words.TABS["open"], id="open") as opening:
                start = OpeningPage(state, enter, entered, opening)
            with gr.Tab(words.TABS["mask"], id="mask"):
                MaskPage(state, token)
            with gr.Tab(words.TABS["edit"], id="edit") as editing:
                edit_page = EditPage(state, token, editing)
                edit = edit_page.edit
            with gr.Tab(words.TABS["run"], id="run") as run:
                RunPage(state, token, edit, run).touching_up(tabs, edit_page.frame)
            edit.input(edit_name, edit, edit, **SILENT)

        def load(last: list[str]) -> list[Any]:
            run, root = last
            root = root if run == state.run or not state.first else state.first
            with caught() as problem:
                return enter(root) if root else [gr.skip()] * 4
            return ["", ["", ""], f"{words.INTRODUCTION} ({plain(problem.text)})", gr.skip()]

        app.load(load, last, entered, **SILENT)
        app.load(start.show_recent, None, [start.recent, start.roots], **SILENT)
    return app


def edit_name(text: str) -> str:
    """The name of an edit as a folder may have it: "red hat" is red-hat."""
    return re.sub(r"[^\w-]+", "-", text.strip(), flags=re.ASCII).strip("-")


class Guard:
    """Answers the program's own page alone, and only who has come by one of its addresses.

    Any account of this machine reaches its loopback addresses, and so does every page in the same
    browser. The token, or the code, in the address becomes a cookie, which is asked for with every
    request. A browser sends a host's cookies to all of its ports, but to paths below the cookie's
    own alone: so all pages lie below one that nobody else knows.
    """

    def __init__(self, app: ASGIApp, host: str, place: str, token: str, code: Code) -> None:
        self._app, self._host, self._place = app, host, place
        self._token, self._code = token, code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        answer = self._answer(HTTPConnection(scope))
        if answer is None:
            below = {**scope, "root_path": self._place}
            return await self._app(below, receive, _guarded(send))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        await answer(scope, receive, _guarded(send))

    def _answer(self, asked: HTTPConnection) -> Response | None:
        """What is answered in the page's place; None where the page may answer."""
        own, origin = asked.headers.get("host", ""), asked.headers.get("origin")
        try:
            name = urlsplit(f"//{own}").hostname or ""
            is_foreign = origin is not None and urlsplit(origin).netloc != own
        except ValueError:
            return PlainTextResponse(words.FOREIGN, status_code=400)
        if is_foreign or (_is_local(self._host) and not _is_local(name)):
            return PlainTextResponse(words.FOREIGN, status_code=403)
        token, code = (asked.query_params.get(name, "") for name in ("token", "code"))
        if _is_same(token, self._token) or self._code.take(code):
            enter = RedirectResponse(f"{self._place}/", 303)  # both leave the address bar
            enter.set_cookie(COOKIE, self._token, path=self._place, httponly=True, samesite="lax")
            return enter
        path, cookie = asked.scope["path"], asked.cookies.get(COOKIE, "")
        if path.startswith(f"{self._place}/") and _is_same(cookie, self._token):
            return None
        if path == "/favicon.ico":  # browsers ask for it by themselves
            return Response(status_code=204)
        return PlainTextResponse(words.USED if code else words.FOREIGN, status_code=403)


def _is_same(text: str, secret: str) -> bool:
    return secrets.compare_digest(text.encode("utf-8", "replace"), secret.encode())


def _guarded(send: Send) -> Send:
    """The same, with headers that keep other pages and addresses out."""

    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(GUARDS)
        await send(message)

    return send_guarded


def _serve_files(app: FastAPI, state: AppState) -> None:
    """What lies in the open workspaces, under the names of their sessions."""

    @app.get("/maskora/{token}/frame/{number}.jpg")
    def frame(token: str, number: int) -> Response:
        with caught() as problem:
            session = state.session(token)
            if 0 <= number < session.source.frames:
                return Response(
                    session.frame_jpeg(number), media_type="image/jpeg", headers=FOREVER
                )
        return PlainTextResponse(problem.text or "no such frame", status_code=404)

    @app.get("/maskora/{token}/source/{number}.png")
    def source(token: str, number: int, original: bool = False) -> Response:
        with caught() as problem:
            session = state.session(token)
            if original:
                state.guard.check(session.origin)
            file = edits.frame_file(session.workspace, number, original, state.room(token))
            return FileResponse(file, filename=file.name)
        return PlainTextResponse(problem.text, status_code=404)

    @app.get("/maskora/{token}/output/{name}")
    def output(token: str, name: Output, edit: str = "", version: str = "") -> Response:
        with caught() as problem:
            number = int(version) if version.isdecimal() else None
            folder = version_folder(state.session(token).workspace, edit or None, number)
            return _file(state, folder / name)
        return PlainTextResponse(problem.text, status_code=404)

    @app.get("/maskora/{token}/previews/{name}")
    def preview(token: str, name: str, edit: str = "") -> Response:
        with caught() as problem:
            folder = state.session(token).workspace.previews_dir(edit or None)
            return _file(state, folder / name if PREVIEW_NAME.fullmatch(name) else None)
        return PlainTextResponse(problem.text, status_code=404)


def _file(state: AppState, path: Path | None) -> Response:
    """A file that the page may have. Raises UserError: it leads out of the allowed folders."""
    if path is None or not path.is_file():
        return PlainTextResponse("not there yet", status_code=404)
    return FileResponse(state.guard.check(path))


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
