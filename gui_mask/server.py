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

from gui_mask.answers import explain
from gui_mask.app import STYLE, THEME, build
from gui_mask.desk import Desk
from gui_mask.places import Places
from gui_mask.sessions import Sessions
from maskora.video.limits import Limits

Output = Literal["edited.mp4", "comparison.mp4", "strip.png"]
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
        tempfile.TemporaryDirectory(prefix="maskora-gui-") as scratch,
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
    names = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]", host, f"[{host}]")}

    @app.middleware("http")
    async def from_this_page_only(request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Other sites in the same browser may not speak to this program in the person's name."""
        origin = request.headers.get("origin")
        hosts = {request.headers.get("host", ""), *([urlsplit(origin).netloc] if origin else [])}
        if _is_local(host) and not hosts <= names:
            return PlainTextResponse("this address belongs to maskora alone", status_code=403)
        return await call_next(request)

    @app.get("/maskora/{token}/frame/{number}.jpg")
    def frame(token: str, number: int) -> Response:
        with explain() as told:
            session = desk.session(token)
            if 0 <= number < session.source.frames:
                return Response(
                    session.frame_jpeg(number), media_type="image/jpeg", headers=FOREVER
                )
        return PlainTextResponse(told.text or "no such frame", status_code=404)

    @app.get("/maskora/{token}/output/{name}")
    def output(token: str, name: Output, edit: str = "") -> Response:
        with explain() as told:
            path = desk.session(token).workspace.output_dir(edit or None, None) / name
            if path.is_file():
                return FileResponse(path)
        return PlainTextResponse(told.text or "not there yet", status_code=404)

    return gr.mount_gradio_app(
        app, build(desk), path="/", server_name=host, server_port=port, footer_links=[],
        allowed_paths=[], max_file_size=desk.limits.max_bytes, show_error=True, ssr_mode=False,
        theme=THEME, css=STYLE, pwa=False, mcp_server=False, enable_monitoring=False,
    )  # fmt: skip


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
