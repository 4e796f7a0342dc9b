"""Tiny bases of every kind, and copies of them whose configurations are damaged."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from maskora import hub
from maskora.models.tiny import FAMILIES as TINY
from maskora.models.tiny import write_tiny_model
from tests.models import tiny_hunyuan, tiny_hunyuan15

WAN, WAN22, FULL, NEWER = "wan2.1-i2v", "wan2.2-i2v", "hunyuan-video-i2v", "hunyuan-video-1.5-i2v"
MISSING = object()
PUBLISHED = "take it as it was published"


def write_all(root: Path) -> dict[str, Path]:
    """A folder of each family."""
    for family in TINY:
        write_tiny_model(root / family, family=family)
    written = {family: root / family for family in TINY}
    written[FULL] = tiny_hunyuan.write(root / FULL)
    written[NEWER] = tiny_hunyuan15.write(root / NEWER)
    written["miniature"] = hub.locate("miniature", root)
    return written


def copied(folder: Path, where: Path) -> Path:
    """A copy whose configurations may be written anew, and whose weights are the same files."""
    copy = shutil.copytree(folder, where / "copy", copy_function=os.symlink)
    for path in copy.glob("*/*config.json"):
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    return copy


def config_of(folder: Path, part: str) -> Path:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return folder / part / name


def changed(config: dict[str, Any], keys: tuple[str, ...], value: object) -> dict[str, Any]:
    """A configuration with one key, perhaps of an inner one, of another value."""
    first, *rest = keys
    if rest:
        return config | {first: changed(config[first], tuple(rest), value)}
    return {
        **{k: v for k, v in config.items() if k != first},
        **({} if value is MISSING else {first: value}),
    }


def damaged(folder: Path, where: Path, part: str, key: str, value: object) -> tuple[Path, Path]:
    """A copy of a base with one key (`outer.inner`) changed, and the file that has it."""
    copy = copied(folder, where)
    path = config_of(copy, part)
    path.write_text(json.dumps(changed(json.loads(path.read_text()), tuple(key.split(".")), value)))
    return copy, path
