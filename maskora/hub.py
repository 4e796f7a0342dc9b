"""Where a model's files are: a folder here, or the hub's cache. Imports no torch."""

import errno
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

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
from maskora.files import move, remove
from maskora.progress import Progress

SHARD = re.compile(r"-\d{5}-of-\d{5}")
WEIGHTS = re.compile(r"(?P<stem>.+)\.safetensors(?P<index>(\.[\w-]+)?\.index(\.[\w-]+)?\.json)?")


def variants(names: Iterable[str]) -> set[str]:
    """Those weights, and their indices, that stand beside the same ones without a variant.

    `model.fp16.safetensors` is a variant of `model.safetensors`, cut into shards or not, where that
    is among the names and in the same folder.

    Args:
        names: paths within a folder, with forward slashes.
    """
    stems = {name: stem for name in names if (stem := _stem(name)) is not None}
    return {name for name, stem in stems.items() if _shorter(stem) & {*stems.values()}}


def _stem(name: str) -> str | None:
    """A weight's path, or its index's, without shard and suffix; None for other files."""
    path = PurePosixPath(name)
    found = WEIGHTS.fullmatch(path.name)
    if found is None:
        return None
    inner = (found["index"] or "").removesuffix(".json").replace(".index", "")
    return str(path.with_name(SHARD.sub("", found["stem"]) + inner))


def _shorter(stem: str) -> set[str]:
    """A stem of the name a.b.c without its parts: a and a.b."""
    path = PurePosixPath(stem)
    parts = path.name.split(".")
    return {str(path.with_name(".".join(parts[:end]))) for end in range(1, len(parts))}


PATIENCE = 10.0  # seconds


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
        return 0 if self._blob(file).exists() else file.size - length(self.part(file))

    def _blob(self, file: Remote) -> Path:
        return self.home / "blobs" / str(file.sha256)


def look(name: str) -> Repository | None:
    """What is in a repository; None where the hub does not tell: its client says why."""
    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=PATIENCE)
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled, json.JSONDecodeError):
        return None
    files = (
        Remote(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None)
        for one in info.siblings or ()
    )
    return Repository(name, str(info.sha), tuple(files))


def names_here(name: str) -> list[str]:
    """The files of a repository as they were listed when it was last fetched."""
    try:
        return [file.path for file in get_cached_repo_tree(name)]
    except CachedRepoTreeNotFoundError:
        return []


def length(path: Path) -> int:
    """A file's size in bytes; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


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
        if _sha256(part) == file.sha256:
            move(part, final)
            return
        remove(part)
    raise Fault(f"{file.name} of {found.name} came damaged: the same command fetches it again")


def _fill(url: str, part: Path, size: int, progress: Progress, stop: threading.Event) -> bool:
    """Ask until all of a file is here, or told to stop: whether it is here."""
    failures = 0
    while (have := length(part)) != size:
        if have > size:
            remove(part)
            continue
        try:
            _stream(url, part, progress, stop)
        except httpx2.TransportError:
            failures = 0 if length(part) > have else failures + 1
            if failures == TRIES:
                raise
        if stop.wait(PAUSE * 2 ** (failures - 1) if failures else 0):
            return False
    return True


def _stream(url: str, part: Path, progress: Progress, stop: threading.Event) -> None:
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
            progress.advance(-have)
        with part.open("ab" if continues else "wb") as file:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                progress.advance(len(chunk))
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


GB = 10**9
LARGE = 16 * 2**20  # bytes from which on a file is continued where it was cut off
WORTH_TELLING = 100 * 2**20  # bytes from which on a download is announced
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
log = logging.getLogger("maskora")


def fetch(name: str, patterns: Sequence[str], unwanted: Sequence[str], key: str) -> Path:
    """The local folder of a hub repository, with the files that are wanted.

    Args:
        patterns, unwanted: which files are needed, and which of these are not.
        key: what named the repository; it stands before every complaint.

    Raises:
        UserError: there is no such repository, or it cannot be reached.
        Fault: the disk has no room, the connection was lost, a file came damaged.
    """
    _check_proxy(key)
    try:
        found = look(name)
        names = [file.name for file in found.files] if found else names_here(name)
        ignored = [*unwanted, *(glob.escape(one) for one in sorted(variants(names)))]
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
        bring_all(found, large)
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
    amount = f"{coming / GB:.1f} GB" if coming == whole else f"{_of(coming, whole)} GB"
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


def _of(part: int, whole: int) -> str:
    return f"the last {part / GB:.1f} of {whole / GB:.1f}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


# Diffusers' layout, and what Wan's original one has beside it at the top.
WANTED = [
    "*.json", "*/*.safetensors", "*/*.model", "*/*.txt", "*/*.jinja",
    "diffusion_pytorch_model*.safetensors", "*.pth",
]  # fmt: skip

# Settings that would let whoever made a model's folder choose the code that reads it.
CODE = (
    "attn_implementation", "_attn_implementation", "experts_implementation",
    "_experts_implementation", "auto_map",
)  # fmt: skip


def locate(
    path: str,
    relative_to: Path,
    patterns: list[str] | None = None,
    *,
    without: Collection[str] = (),
    key: str = "[model] path",
) -> Path:
    """The local folder of a model: a folder as it is, a hub id through the hub's cache.

    Args:
        path: a local folder (relative ones count from `relative_to`), a hub id "owner/name", or
            "miniature" for the one that ships with maskora.
        patterns: which of a hub repository's files are needed; None for all of a model's.
        without: parts whose weights are not needed.
        key: which key of the configuration named the path; it stands before every complaint.

    Raises:
        UserError: neither such a folder nor a hub repository that can be reached.
        Fault: the disk has no room for it, or the connection was lost.
    """
    if folder := find_local(path, relative_to):
        return folder
    if path == "miniature":
        return Path(__file__).parent / "miniature" / "weights"
    if not is_hub_id(path):
        raise UserError(f"{key}: {path!r} is neither a folder nor a hub id (owner/name)")

    return fetch(path, patterns or WANTED, [f"{part}/*.safetensors" for part in without], key)


def locate_cached(repository: str) -> Path:
    """The folder of a hub repository that was fetched before, all of it or a part.

    Raises:
        UserError: nothing of it is here.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except IncompleteSnapshotError as error:  # its README, say, which nobody wants
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        raise UserError(f"{repository} has not been fetched from the hub yet") from None


def find_file(path: str, relative_to: Path) -> Path | None:
    """The file that a path names, counted from `relative_to` or from here; None if none."""
    local = Path(os.path.expanduser(path))
    found = [file for file in (relative_to / local, local) if file.is_file()]
    return found[0].absolute() if found else None


def find_local(path: str, relative_to: Path) -> Path | None:
    """The folder that a path names, counted from `relative_to` or from here; None if none."""
    local = Path(os.path.expanduser(path))
    found = [folder for folder in (relative_to / local, local) if folder.is_dir()]
    return found[0].resolve() if found else None


def refuse_quantised(config: dict[str, Any], folder: Path, key: str) -> None:
    """Weights that need a package of somebody else's choice are not loaded. Raises UserError."""
    inner = (value for value in config.values() if isinstance(value, dict))
    for one in inner:
        refuse_quantised(one, folder, key)
    if "quantization_config" in config:
        raise UserError(
            f"{key}: the weights in {folder} are quantised by other software, which is not run "
            f"here: name the checkpoint as it was published"
        )


def without_code(settings: Any) -> Any:
    """Settings of a model and of the models in it, without those that choose code."""
    if isinstance(settings, dict):
        return {key: without_code(value) for key, value in settings.items() if key not in CODE}
    return settings


def is_hub_id(path: str) -> bool:
    """Whether a text has the form of a hub id, and is no file here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path)) and not Path(path).exists()
