"""What a hub repository holds, by the hub's listing, and where that lies in the hub's cache."""

import json
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, try_to_load_from_cache
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name

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
