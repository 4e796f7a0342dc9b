"""The program behind the window: a web server for this machine alone, unless told otherwise."""

import ipaddress
import os
import tempfile
import threading
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.middleware.base import RequestResponseEndpoint

from gui_mask import edits
from gui_mask.answers import explain
from gui_mask.app import STYLE, THEME, build
from gui_mask.desk import Desk
from gui_mask.places import Places
from gui_mask.sessions import Sessions
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
    places = Places(tuple(allowed))
    with (
        # Windows removes no file that a page is still fetching; the system empties the place.
        tempfile.TemporaryDirectory(prefix="maskora-gui-", ignore_cleanup_errors=True) as scratch,
        closing(Sessions(places)) as sessions,
    ):
        os.environ["GRADIO_TEMP_DIR"] = scratch  # uploads are gone when the program is
        desk = Desk(sessions, places, limits, Path(scratch), workspace)
        app = web_app(desk, host, port)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"maskora gui: {address}   (Ctrl-C ends it; the work is in the workspace)")
        print(f"folders that the page may use: {', '.join(map(str, allowed))}")
        if not _is_local(host):
            print(f"everyone who reaches {address} may use them")
        if browser:
            threading.Timer(1.5, webbrowser.open, [address]).start()
        # A page keeps a connection open for as long as it is shown: it is not waited for.
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)


def web_app(desk: Desk, host: str, port: int) -> FastAPI:
    """The pages, and beside them the pictures and videos that they show."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, host)
    _serve_files(app, desk)
    blocks = build(desk)
    # Gradio sets this in launch() alone, and checks only then that a file was really uploaded.
    blocks.has_launched = True
    return gr.mount_gradio_app(
        app, blocks, path="/", server_name=host, server_port=port, footer_links=[],
        allowed_paths=[], max_file_size=desk.limits.max_bytes, show_error=True, ssr_mode=False,
        theme=THEME, css=STYLE, pwa=False, mcp_server=False, enable_monitoring=False,
    )  # fmt: skip


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


def _serve_files(app: FastAPI, desk: Desk) -> None:
    """What lies in the open workspaces, under the names of their sessions."""

    @app.get("/maskora/{token}/frame/{number}.jpg")
    def frame(token: str, number: int) -> Response:
        with explain() as told:
            session = desk.session(token)
            if 0 <= number < session.source.frames:
                return Response(
                    session.frame_jpeg(number), media_type="image/jpeg", headers=FOREVER
                )
        return PlainTextResponse(told.text or "no such frame", status_code=404)

    @app.get("/maskora/{token}/source/{number}.png")
    def source(token: str, number: int, original: bool = False) -> Response:
        with explain() as told:
            session = desk.session(token)
            if original:
                desk.places.check(session.origin)
            file = edits.frame_file(session.workspace, number, original, desk.room(token))
            return FileResponse(file, filename=file.name)
        return PlainTextResponse(told.text, status_code=404)

    @app.get("/maskora/{token}/output/{name}")
    def output(token: str, name: Output, edit: str = "") -> Response:
        with explain() as told:
            path = desk.session(token).workspace.output_dir(edit or None, None) / name
            if path.is_file():
                return FileResponse(desk.places.check(path))
        return PlainTextResponse(told.text or "not there yet", status_code=404)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
