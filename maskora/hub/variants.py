"""Weights that a repository has twice, in other precisions: which of them are the plain ones."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

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
