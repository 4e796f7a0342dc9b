"""Files in stores that fsspec reaches by a URL (s3://, gs://, …): fetched first, put at the end."""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from filelock import FileLock
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from maskora.errors import Fault, UserError
from maskora.files import cache_home, digest, flushed_together, move, scratch_folder

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # a drive of Windows has one letter
WEB = ("http", "https")  # in whose URLs what comes after ? and # is no part of a name
QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*")
NO_NAME = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # which Windows has in no file's name
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}  # of this package, by the URL's scheme
# What the packages behind fsspec raise that is no OSError, by module; one not imported raises none.
OWN_ERRORS = {
    "botocore.exceptions": "BotoCoreError",
    "google.auth.exceptions": "GoogleAuthError",
    "aiohttp": "ClientError",
}


def is_remote(place: str) -> bool:
    """Whether a path is a URL."""
    return URL.match(place) is not None


def name_of(url: str) -> str:
    """The last part of a URL's path, as a file of any system may be named."""
    scheme, _, rest = url.partition("://")
    path = urlsplit(url).path if scheme.lower() in WEB else rest
    return NO_NAME.sub("_", PurePosixPath(path).name or urlsplit(url).netloc)


def printable_url(text: str) -> str:
    """A text without what stands behind the ? of its web addresses: it may be a signature."""
    return QUERY.sub(r"\1?…", text)


def default_scratch() -> Path:
    """Where copies of what lies in stores are kept, unless a person names another folder."""
    return cache_home() / "remote"


def local_place(url: str, scratch: Path) -> Path:
    """Where a file is made that is put into a store then."""
    folder, _, name = url.rpartition("/")
    return scratch / "results" / digest(folder) / name


def open_store(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UserError: there is no such scheme, its package is not installed, or a password is in it.
    """
    scheme = url.partition("://")[0].lower()
    if (parts := urlsplit(url)).password is not None:
        raise UserError(
            f"{scheme}://{parts.hostname}{parts.path}: URLs are written into logs and records, so "
            f"none may have a password: put it where {scheme}'s own programs look for it"
        )
    try:
        with _reaching(url):
            store, path = url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'maskora[{extra}]'" if extra else str(error)
        shown = printable_url(url)
        raise UserError(f"{shown}: {scheme}:// needs another package: {remedy}") from None
    except ValueError as error:
        raise UserError(printable_url(f"{url}: {error}")) from None
    store.invalidate_cache()
    return store, path


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Name the URL in what a store refuses; FileNotFoundError stays.

    Raises:
        Fault: it does not answer, or does not allow it.
    """
    own = [getattr(sys.modules[name], kind) for name, kind in OWN_ERRORS.items()
           if name in sys.modules]  # fmt: skip
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, *own) as error:
        if getattr(error, "filename", None):  # the local side, which says itself what is wrong
            raise
        # No cause: it would be told with the URL as it is.
        raise Fault(printable_url(f"{url}: {error or type(error).__name__}")) from None


def find_version(url: str) -> str | None:
    """What a store says of a file's content, or of all files' in a folder; None where none is.

    It is the store's own checksum (S3's and Google's ETag, say), so nothing is read.
    """
    files = _files(url)
    return digest(*(f"{name} {version}" for name, version in files.values())) if files else None


def _files(url: str) -> dict[str, tuple[str, str]]:
    """Path in the store -> name within the folder, and version; of a file its own name."""
    store, path = open_store(url)
    try:
        with _reaching(url):
            is_folder = store.info(path)["type"] == "directory"
            paths = sorted(store.find(path)) if is_folder else [path]
            # S3's consoles mark a folder by an empty object of its name.
            paths = [each for each in paths if each.strip("/") != path.strip("/") or not is_folder]
            found = {each: str(store.checksum(each)) for each in paths}
    except FileNotFoundError:
        return {}
    names = {each: each.removeprefix(path).lstrip("/") or name_of(url) for each in found}
    if outside := [name for name in names.values() if ".." in PurePosixPath(name).parts]:
        shown = printable_url(url)
        raise UserError(f"{shown}: {outside[0]} leads out of the folder: rename it there")
    return {each: (names[each], found[each]) for each in found}


def find_names(url: str, pattern: str) -> list[str]:
    """The names of files in a folder of a store that fit a pattern such as *.json, in order."""
    store, path = open_store(url)
    try:
        with _reaching(url):
            found = [PurePosixPath(each).name for each in store.find(path, maxdepth=1)]
    except FileNotFoundError:  # nothing was put there yet
        return []
    return sorted(name for name in found if fnmatchcase(name, pattern))


def fetch(url: str, scratch: Path) -> Path:
    """A local copy of a file or a folder, named by URL and version; it is whole, or not there.

    Raises:
        UserError: there is no such file.
        Fault: the store does not answer, or the file was written to meanwhile.
    """
    files = _files(url)
    if not files:
        raise UserError(f"no such file: {printable_url(url)}")
    store, path = open_store(url)
    version = digest(*(f"{name} {version}" for name, version in files.values()))
    place = scratch / "inputs" / digest(url, version)
    copy = place / name_of(url)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if copy.exists():
            return copy
        with scratch_folder(place.parent, "fetch") as made:
            part = made / place.name
            inside = part if path in files else part / copy.name
            targets = [inside / name for name, _ in files.values()]
            for folder in {target.parent for target in targets}:
                folder.mkdir(parents=True, exist_ok=True)
            with flushed_together(part), _reaching(url):
                store.get(list(files), list(map(str, targets)))
            if find_version(url) != version:
                shown = printable_url(url)
                raise Fault(f"{shown} was written to while it was fetched: run it again")
            move(part, place)
    return copy


def put(file: Path, url: str) -> None:
    """Write a file into a store, as a whole or not at all.

    Raises:
        UserError: the store takes no files, or has no such bucket.
        Fault: it does not answer, or does not allow it.
    """
    store, path = open_store(url)
    try:
        with _reaching(url), file.open("rb") as content:
            if not store.async_impl:  # stores of objects have no folders: they would make a bucket
                store.makedirs(store._parent(path), exist_ok=True)
            with store.transaction, store.open(path, "wb") as there:
                shutil.copyfileobj(content, there, 2**24)
    except FileNotFoundError as error:
        raise UserError(printable_url(f"{url} cannot be written: {error}")) from None
    except NotImplementedError:
        shown = printable_url(url)
        raise UserError(f"{shown} cannot be written: its server only gives files") from None
