"""Large files of a hub repository, continued where they were cut off.

huggingface_hub's own client begins a file anew in each process, and weights come in files of 5 to
50 GB. So these are fetched by ranges, to where that client looks for them.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import httpx2
from filelock import Timeout
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)
from tqdm import tqdm

from maskora.errors import Fault
from maskora.files import move, remove
from maskora.hub.repository import Remote, Repository, length

CHUNK = 2**20  # bytes
WORKERS = 4
TRIES, PAUSE = 6, 1.0  # in a row without a byte; seconds after the first, doubled each time
LATER = (408, 429, 500, 502, 503, 504)  # HTTP's words for "not now"


def bring_all(found: Repository, files: Sequence[Remote]) -> None:
    """Fetch large files, several at a time; the first failure ends all, and what came stays.

    Raises:
        Fault: a file came damaged.
        httpx2.TransportError, HfHubHTTPError: the connection was lost, or the hub refuses.
    """
    stop = threading.Event()
    whole, rest = sum(f.size for f in files), sum(found.missing(f) for f in files)
    with (
        tqdm(total=whole, initial=whole - rest, unit="B", unit_scale=True, desc="hub") as bar,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        waiting = {pool.submit(_bring, found, file, bar, stop) for file in files}
        try:
            while waiting:  # in short waits: on Windows, Ctrl-C does not end a long one
                done, waiting = wait(waiting, 0.2, FIRST_EXCEPTION)
                for task in done:
                    task.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _bring(found: Repository, file: Remote, bar: "tqdm[None]", stop: threading.Event) -> None:
    """Fetch one file, from where it stands to its end, and check it."""
    url = hf_hub_url(found.name, file.name, revision=found.commit)
    if get_hf_file_metadata(url, retry_on_errors=True).etag != file.sha256:
        return  # another kind of hub, which keeps its files by other names: its client knows
    part, final, lock = found.part(file), found.final(file), found.lock(file)
    for path in (part, final, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _held(lock, stop):
        if stop.is_set() or not found.missing(file):  # another process may have fetched it
            return
        if not _fill(url, part, file.size, bar, stop):
            return
        if _sha256(part) == file.sha256:
            move(part, final)
            return
        remove(part)
    raise Fault(f"{file.name} of {found.name} came damaged: the same command fetches it again")


def _fill(url: str, part: Path, size: int, bar: "tqdm[None]", stop: threading.Event) -> bool:
    """Ask until all of a file is here, or told to stop: whether it is here."""
    failures = 0
    while (have := length(part)) != size:
        if have > size:
            remove(part)
            continue
        try:
            _stream(url, part, bar, stop)
        except httpx2.TransportError:
            failures = 0 if length(part) > have else failures + 1
            if failures == TRIES:
                raise
        if stop.wait(PAUSE * 2 ** (failures - 1) if failures else 0):
            return False
    return True


def _stream(url: str, part: Path, bar: "tqdm[None]", stop: threading.Event) -> None:
    """Append what is still missing of a file, in one request."""
    have = length(part)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = http_stream_backoff(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        retry_on_exceptions=(), retry_on_status_codes=LATER,
    )  # fmt: skip
    with request as response:
        hf_raise_for_status(response)
        continues = response.status_code == 206
        if not continues:
            bar.update(-have)
        with part.open("ab" if continues else "wb") as file:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if stop.is_set():
                    return


@contextmanager
def _held(lock: Path, stop: threading.Event) -> Iterator[None]:
    """Hold a lock that other processes may hold; told to stop, go on without it."""
    while not stop.is_set():
        try:
            with WeakFileLock(lock, timeout=1):
                yield
                return
        except Timeout:
            continue
    yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
