"""A hub of our own on loopback, with what huggingface_hub's client asks of one."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789" * 4
LARGE = 1000  # bytes from which on a file is kept as a large one (LFS)


class Hub:
    """One repository, "somebody/base", and what was asked of it.

    Attributes:
        files: path -> content.
        asked: (method, path or file, Range) of each request.
        allowance: bytes of content that are still sent before every connection is cut; None: all.
        stalls: at the end of the allowance, wait instead of cutting.
        knows_ranges: a part of a file may be asked for.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str, str]] = []
        self.allowance: int | None = None
        self.stalls = False
        self.knows_ranges = True
        self.spent = threading.Event()
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.url = ""

    def contents(self) -> list[tuple[str, str]]:
        """(file, Range) of the requests for content; they are forgotten."""
        found = [(path, span) for method, path, span in self.asked if method == "CONTENT"]
        self.asked.clear()
        return sorted(found)

    def take(self, wanted: int) -> int:
        """How many of so many bytes may be sent."""
        with self.lock:
            if self.allowance is None:
                return wanted
            given = min(wanted, self.allowance)
            self.allowance -= given
            return given

    def listing(self, tree: bool) -> object:
        """What /api answers: the whole model, or its files."""
        files = []
        for path, data in self.files.items():
            entry: dict[str, object] = {"size": len(data)}
            entry |= {"type": "file", "path": path} if tree else {"rfilename": path}
            entry["oid" if tree else "blobId"] = hashlib.sha1(data).hexdigest()
            if len(data) >= LARGE:
                sha = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": 130}
            files.append(entry)
        return files if tree else {"id": "somebody/base", "sha": COMMIT, "siblings": files}


def etag(data: bytes) -> str:
    """As the hub names a content: large files by SHA-256."""
    return (hashlib.sha256 if len(data) >= LARGE else hashlib.sha1)(data).hexdigest()


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run one in a thread."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            path, span = unquote(urlsplit(self.path).path), self.headers.get("Range", "")
            if path.startswith("/api/models/somebody/base"):
                hub.asked.append((self.command, path, span))
                self.send(200, json.dumps(hub.listing("/tree/" in path)).encode(), {})
                return
            found = re.fullmatch(r"/somebody/base/resolve/[^/]+/(.+)", path)
            if found is None or found[1] not in hub.files:
                self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
                return
            data = hub.files[found[1]]
            method = "CONTENT" if self.command == "GET" else "HEAD"
            hub.asked.append((method, found[1], span))
            span = span if hub.knows_ranges else ""
            begin = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
            more = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT}
            if span:
                more["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            self.send(206 if span else 200, data[begin:], more)

        do_HEAD = do_GET

        def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            given = hub.take(len(data)) if "ETag" in headers else len(data)
            self.wfile.write(data[:given])
            self.wfile.flush()
            if given < len(data):
                hub.spent.set()
                if hub.stalls:
                    hub.closing.wait()
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process ask this hub, with a cache of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
