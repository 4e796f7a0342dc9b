"""The program behind the window: a web server for this machine alone, unless asked otherwise."""

import ipaddress
import os
import tempfile
import threading
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.middleware.base import RequestResponseEndpoint

from gui_mask import edits
from gui_mask.errors import caught, plain
from gui_mask.pages import SILENT
from gui_mask.pages.editing import EditPage
from gui_mask.pages.mask import MaskPage
from gui_mask.pages.opening import OpeningPage, summary
from gui_mask.pages.running import RunPage
from gui_mask.state import AppState, PathGuard
from maskora.video.untrusted import Limits

Output = Literal["edited.mp4", "comparison.mp4", "strip.png"]
FOREIGN = (
    "this is maskora, and speaks only to its own page: open it by the address it was started with"
)
# The page itself may run its own code (gr.HTML evaluates its script), and asks no other address.
GUARDS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a token's frames never change
INTRODUCTION = "Open a workspace, or make one from a video."
THEME = gr.themes.Default(
    primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)
STYLE = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
.plan pre, .log pre { font: 13px/1.4 ui-monospace, monospace; }
.plan pre, .log pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.links a { display: inline-block; margin: 4px 8px 0 0; padding: 6px 12px; border-radius: 6px; }
.links a { background: var(--button-secondary-background-fill); color: inherit; }
.links a { text-decoration: none; font-size: 14px; }
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
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        app = web_app(state, host, port)
        print(f"maskora gui: {address}   (Ctrl-C ends it; the work is in the workspace)")
        print(f"folders that the page may use: {', '.join(map(str, allowed))}")
        if not _is_local(host):
            print(f"everyone who reaches {address} may use them")
        if browser:
            threading.Timer(1.5, webbrowser.open, [address]).start()
        # A page keeps a connection open for as long as it is shown: it is not waited for.
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)


def web_app(state: AppState, host: str, port: int) -> FastAPI:
    """The pages, and beside them the pictures and videos that they show."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, host)
    _serve_files(app, state)
    blocks = build(state)
    # Gradio sets this in launch() alone, and checks only then that a file was really uploaded.
    blocks.has_launched = True
    return gr.mount_gradio_app(
        app, blocks, path="/", server_name=host, server_port=port, footer_links=[],
        allowed_paths=[], max_file_size=state.limits.max_bytes, show_error=True, ssr_mode=False,
        theme=THEME, css=STYLE, pwa=False, mcp_server=False, enable_monitoring=False,
    )  # fmt: skip


def build(state: AppState) -> gr.Blocks:
    """All pages, and how a workspace is entered."""
    with gr.Blocks(title="maskora", analytics_enabled=False, fill_width=True) as app:
        token = gr.State("")
        # What was open last since the program was started: its workspace comes before older ones.
        last = gr.BrowserState(["", ""], storage_key="maskora-workspace", secret="maskora")
        head = gr.Markdown(INTRODUCTION)
        with gr.Tabs(selected="open") as tabs:

            def enter(text: str) -> list[Any]:
                session = state.open(text)
                kept = [state.run, str(session.workspace.root)]
                return [session.token, kept, summary(session), gr.Tabs(selected="mask")]

            entered = [token, last, head, tabs]
            with gr.Tab("1 · Open", id="open"):
                OpeningPage(state, enter, entered)
            with gr.Tab("2 · Mask", id="mask"):
                MaskPage(state, token)
            with gr.Tab("3 · Edit", id="edit") as editing:
                edit = EditPage(state, token, editing).edit
            with gr.Tab("4 · Run", id="run") as run:
                RunPage(state, token, edit, run)

        def load(last: list[str]) -> list[Any]:
            run, root = last
            root = root if run == state.run or not state.first else state.first
            with caught() as problem:
                return enter(root) if root else [gr.skip()] * 4
            return ["", ["", ""], f"{INTRODUCTION} ({plain(problem.text)})", gr.skip()]

        app.load(load, last, entered, **SILENT)
    return app


def _guard(app: FastAPI, host: str) -> None:
    """Answer the program's own page alone."""

    @app.middleware("http")
    async def from_this_page_only(request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Other sites in the same browser may not speak to this program in the person's name."""
        own, origin = request.headers.get("host", ""), request.headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc != own
        if is_foreign or (_is_local(host) and not _is_local(urlsplit(f"//{own}").hostname or "")):
            return PlainTextResponse(FOREIGN, status_code=403)
        response = await call_next(request)
        response.headers.update(GUARDS)
        return response


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
    def output(token: str, name: Output, edit: str = "") -> Response:
        with caught() as problem:
            path = state.session(token).workspace.output_dir(edit or None, None) / name
            if path.is_file():
                return FileResponse(state.guard.check(path))
        return PlainTextResponse(problem.text or "not there yet", status_code=404)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
