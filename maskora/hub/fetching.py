"""Bringing a hub repository's files into the hub's cache: said first, continued where cut off.

huggingface_hub's own client begins a file anew in each process, and weights come in files of 5 to
50 GB. So large ones are fetched here by ranges, to where that client looks for them.
"""

import errno
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from filelock import Timeout
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    filter_repo_objects,
    get_session,
    hf_raise_for_status,
    http_stream_backoff,
)

from maskora.errors import Fault, UserError
from maskora.files import flush, move, remove, sha256_file
from maskora.progress import Progress

log = logging.getLogger("maskora")
GB = 10**9
LARGE = 16 * 2**20  # bytes from which on a file is continued where it was cut off
WORTH_TELLING = 100 * 2**20  # bytes from which on a download is announced
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
PATIENCE = 10.0  # seconds until the hub has answered what is in a repository
CHUNK = 2**20  # bytes
WORKERS = 4
TRIES, PAUSE = 6, 1.0  # in a row without a byte; seconds after the first, doubled each time
LATER = (408, 429, 500, 502, 503, 504)  # HTTP's words for "not now"


def fetch(
    name: str, patterns: Sequence[str], unwanted: Callable[[Iterable[str]], list[str]], key: str
) -> Path:
    """The local folder of a hub repository, with the files that are wanted.

    Args:
        patterns: which files are needed.
        unwanted: which of these are not, as patterns, by the names of all that there are.
        key: what named the repository; it stands before every complaint.

    Raises:
        UserError: there is no such repository, or it cannot be reached.
        Fault: the disk has no room, the connection was lost, a file came damaged.
    """
    _check_proxy(key)
    try:
        found = look_up(name)
        ignored = unwanted([file.name for file in found.files] if found else _names_cached(name))
        if found:
            kept = filter_repo_objects(
                found.files, allow_patterns=[*patterns], ignore_patterns=ignored,
                key=lambda file: file.name,
            )  # fmt: skip
            _bring_large(found, list(kept), key)
        return Path(snapshot_download(name, allow_patterns=[*patterns], ignore_patterns=ignored))
    except KeyboardInterrupt:
        log.warning("%s: what has come of %s stays; the same command continues", key, name)
        raise
    except (httpx2.HTTPError, HFValidationError, OSError, json.JSONDecodeError) as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise
        raise UserError(
            f"{key}: {name!r} is no local folder and could not be fetched from the hub "
            f"({_first_line(error)}). Download it where there is a network and name the folder."
        ) from None


@dataclass(frozen=True)
class Remote:
    """A file of a repository.

    Attributes:
        name: its path there.
        size: in bytes; 0 where the hub does not say.
        sha256: of its content, for those that the hub keeps as large files (LFS).
    """

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: tuple[Remote, ...]

    @property
    def home(self) -> Path:
        """Its folder in the cache."""
        cache = Path(constants.HF_HUB_CACHE)
        return cache / repo_folder_name(repo_id=self.name, repo_type="model")

    def final(self, file: Remote) -> Path:
        """Where the hub's client takes a large file from."""
        if are_symlinks_supported(self.home.parent):
            return self._blob(file)
        return self.home / "snapshots" / self.commit / file.name

    def part(self, file: Remote) -> Path:
        """What has come of a large file."""
        return self.home / "blobs" / f"{file.sha256}.maskora.incomplete"

    def lock(self, file: Remote) -> Path:
        """Held by who fetches a large file, the hub's client included."""
        return self.home.parent / ".locks" / self.home.name / f"{file.sha256}.lock"

    def missing(self, file: Remote) -> int:
        """How many bytes of a file are still to come."""
        if isinstance(try_to_load_from_cache(self.name, file.name, revision=self.commit), str):
            return 0
        if file.sha256 is None:
            return file.size
        return 0 if self._blob(file).exists() else file.size - _length(self.part(file))

    def _blob(self, file: Remote) -> Path:
        return self.home / "blobs" / str(file.sha256)


def look_up(name: str) -> Repository | None:
    """What is in a repository; None where the hub does not answer: its client says why."""
    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=PATIENCE)
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled, json.JSONDecodeError):
        return None
    files = (
        Remote(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None)
        for one in info.siblings or ()
    )
    return Repository(name, str(info.sha), tuple(files))


def _names_cached(name: str) -> list[str]:
    """The files of a repository as they were listed when it was last fetched."""
    try:
        return [file.path for file in get_cached_repo_tree(name)]
    except CachedRepoTreeNotFoundError:
        return []


def _check_proxy(key: str) -> None:
    """The connection to the hub can be set up. Raises UserError where a proxy is named wrongly."""
    try:
        get_session()
    except (httpx2.InvalidURL, ValueError, ImportError) as error:
        raise UserError(
            f"{key}: the hub cannot be asked, since a proxy that the environment names cannot be "
            f"used ({_first_line(error)}). See the variables HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        ) from None


def _bring_large(found: Repository, kept: Sequence[Remote], key: str) -> None:
    """Say what comes, refuse what has no room for it, and fetch the large files."""
    coming = sum(found.missing(file) for file in kept)
    if coming >= WORTH_TELLING:
        _announce(found, coming, sum(file.size for file in kept), key)
    sizes = range(LARGE, constants.MAX_HTTP_DOWNLOAD_SIZE)  # what is larger comes by Xet alone
    large = [file for file in kept if file.sha256 and file.size in sizes and found.missing(file)]
    if not large:
        return
    before = sum(found.missing(file) for file in large)
    try:
        _bring_all(found, large)
    except httpx2.HTTPError as error:
        rest = sum(found.missing(file) for file in large)
        if isinstance(error, HfHubHTTPError) and rest == before:
            raise
        raise Fault(
            f"{key}: the download of {found.name} was cut off ({_first_line(error)}). What has "
            f"come stays: the same command continues, with {rest / GB:.1f} GB to go"
        ) from None


def _announce(found: Repository, coming: int, whole: int, key: str) -> None:
    """How much will come, and what would do instead. Raises Fault where the disk is too full."""
    cache = Path(constants.HF_HUB_CACHE)
    parents = (cache, *cache.absolute().parents)
    there = next((folder for folder in parents if folder.is_dir()), None)
    if there is None:
        raise Fault(f"{key}: the hub's cache, {cache}, is on a drive that is not here: set HF_HOME")
    free = shutil.disk_usage(there).free
    last = "" if coming == whole else f"the last {coming / GB:.1f} of "
    amount = f"{last}{whole / GB:.1f} GB"
    instead = "a folder that is here already would do"
    if key == "[model] path":
        instead = (
            "single files as ComfyUI has them (16 to 33 GB for a 14B base; [model] files, "
            "docs/bases.md) or a folder that is here already would do"
        )
    if free < coming:
        raise Fault(
            f"{key}: {amount} of {found.name} are to be fetched, and the disk of the hub's cache "
            f"({cache}) has {free / GB:.1f} GB free: {(coming - free) / GB:.1f} GB are missing. "
            f"Make room, or name a folder on another disk in the environment variable HF_HOME; or "
            f"{instead}"
        )
    log.info(
        "%s: fetching %s of %s from the hub into %s (%.1f GB free). Instead, %s. Interrupted, the "
        "same command continues.",
        key, amount, found.name, cache, free / GB, instead,
    )  # fmt: skip


def _bring_all(found: Repository, files: Sequence[Remote]) -> None:
    """Fetch large files, several at a time; the first failure ends all, and what came stays.

    Raises:
        Fault: a file came damaged.
        httpx2.TransportError, HfHubHTTPError: the connection was lost, or the hub refuses.
    """
    stop = threading.Event()
    whole, rest = sum(f.size for f in files), sum(found.missing(f) for f in files)
    with (
        Progress("hub", whole, "B", done=whole - rest) as progress,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        waiting = {pool.submit(_bring, found, file, progress, stop) for file in files}
        try:
            while waiting:  # in short waits: on Windows, Ctrl-C does not end a long one
                done, waiting = wait(waiting, 0.2, FIRST_EXCEPTION)
                for task in done:
                    task.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _bring(found: Repository, file: Remote, progress: Progress, stop: threading.Event) -> None:
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
        if not _fill(url, part, file.size, progress, stop):
            return
        if sha256_file(part) == file.sha256:
            flush(part)
            move(part, final)
            return
        remove(part)
    raise Fault(f"{file.name} of {found.name} came damaged: the same command fetches it again")


@contextmanager
def _held(lock: Path, stop: threading.Event) -> Iterator[None]:
    """Hold a lock that other processes may hold; once `stop` is set, go on without it."""
    while not stop.is_set():
        try:
            with WeakFileLock(lock, timeout=1):
                yield
                return
        except Timeout:
            continue
    yield


def _fill(url: str, part: Path, size: int, progress: Progress, stop: threading.Event) -> bool:
    """Ask until all of a file is here, or `stop` is set. Whether it is here."""
    failures = 0
    while (have := _length(part)) != size:
        if have > size:
            remove(part)
            continue
        try:
            _stream(url, part, progress, stop)
        except httpx2.TransportError:
            failures = 0 if _length(part) > have else failures + 1
            if failures == TRIES:
                raise
        if stop.wait(PAUSE * 2 ** (failures - 1) if failures else 0):
            return False
    return True


def _stream(url: str, part: Path, progress: Progress, stop: threading.Event) -> None:
    """Append what is still missing of a file, in one request."""
    have = _length(part)
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
            progress.advance(-have)
        with part.open("ab" if continues else "wb") as file:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                progress.advance(len(chunk))
                if stop.is_set():
                    return


def _length(path: Path) -> int:
    """A file's size in bytes; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
