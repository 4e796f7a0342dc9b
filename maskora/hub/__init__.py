"""Where a model's files are: a folder here, or the hub's cache. Imports no torch.

What speaks to the hub, `maskora.hub.fetching`, takes long to import, and is only where it must.
"""

import glob
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from maskora.errors import UserError

# Diffusers' layout, and what Wan's original one has beside it at the top.
WANTED = [
    "*.json", "*/*.safetensors", "*/*.model", "*/*.txt", "*/*.jinja",
    "diffusion_pytorch_model*.safetensors", "*.pth",
]  # fmt: skip
SHARD = re.compile(r"-\d{5}-of-\d{5}")
WEIGHTS = re.compile(r"(?P<stem>.+)\.safetensors(?P<index>(\.[\w-]+)?\.index(\.[\w-]+)?\.json)?")
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
        return Path(__file__).parents[1] / "miniature" / "weights"
    if not is_hub_id(path):
        raise UserError(f"{key}: {path!r} is neither a folder nor a hub id (owner/name)")

    from maskora.hub.fetching import fetch

    def unwanted(names: Iterable[str]) -> list[str]:
        escaped = [glob.escape(name) for name in sorted(variants(names))]
        return [*(f"{part}/*.safetensors" for part in without), *escaped]

    return fetch(path, patterns or WANTED, unwanted, key)


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


def is_hub_id(path: str) -> bool:
    """Whether a text has the form of a hub id, and is no file here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path)) and not Path(path).exists()


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
    """A stem of the name a.b.c without its last parts: a and a.b."""
    path = PurePosixPath(stem)
    parts = path.name.split(".")
    return {str(path.with_name(".".join(parts[:end]))) for end in range(1, len(parts))}


def refuse_quantised(config: dict[str, Any], folder: Path, key: str) -> None:
    """Weights that need a package of somebody else's choice are not loaded. Raises UserError."""
    for inner in config.values():
        if isinstance(inner, dict):
            refuse_quantised(inner, folder, key)
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
