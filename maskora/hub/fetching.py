"""Bringing a hub repository's files here: how much comes is said first, and what came stays."""

import errno
import glob
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx2
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    filter_repo_objects,
    get_session,
)

from maskora.errors import Fault, UserError
from maskora.hub.ranges import bring_all
from maskora.hub.repository import Remote, Repository, look, names_here
from maskora.hub.variants import variants

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
