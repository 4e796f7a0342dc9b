"""Seconds per step that this machine has measured, kept beside what decides them."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskora.files import cache_home, write_text

log = logging.getLogger("maskora")


def key(facts: Mapping[str, Any]) -> str:
    """A name for everything that decides a step's time: device, model, tokens, placement, …"""
    return json.dumps(facts, sort_keys=True)


def lookup(key: str) -> float | None:
    """The seconds that a step took the last time; None where it was never measured here."""
    return _read().get(key)


def record(key: str, seconds: float) -> None:
    """Remember how long a step took."""
    text = json.dumps({**_read(), key: seconds}, indent=1, sort_keys=True) + "\n"
    try:
        write_text(_path(), text)
    except OSError as error:  # a plan without seconds is no reason to fail a run that is done
        log.warning("note: the step's time was not kept in %s: %s", _path(), error.strerror)


def _path() -> Path:
    return cache_home() / "timings.json"


def _read() -> dict[str, float]:
    """What is there; a missing or damaged file counts as empty."""
    try:
        content = json.loads(_path().read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {k: float(v) for k, v in content.items() if isinstance(v, int | float)}
