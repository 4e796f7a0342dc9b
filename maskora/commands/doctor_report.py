"""A doctor's page as JSON for a bug report: nothing in it tells who the person is."""

import getpass
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskora.commands.doctor_bases import Verdict
from maskora.commands.doctor_facts import Facts
from maskora.commands.doctor_outcomes import Outcome

# A path of Linux and macOS, or of Windows, where a folder's name with spaces is known by the
# backslash behind it; not an address (https://...), nor an id of the hub.
WORD = r"[^\s'\"<>|:;,()\\/]+"
PATH = re.compile(
    rf"(?<![\w/])(?:~|[A-Za-z]:)?(?:\\+|/)(?!/)(?:{WORD}(?: {WORD})*\\+|{WORD}[\\/]*)+"
)


def report(
    facts: Facts, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Everything that the page says, and more numbers; without names and paths."""
    machine = asdict(facts)
    for folder in ("cache", "hub"):
        del machine[folder]["path"]
    told: dict[str, Any] = scrubbed(
        {
            "machine": machine,
            "checks": [asdict(outcome) for outcome in outcomes],
            "bases": [asdict(verdict) for verdict in verdicts],
        },
        folders(),
        names(),
    )
    return told


def folders() -> list[str]:
    """Folders of which a message may tell, the longest first."""
    places = [Path.home(), Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir())]
    texts = {text for place in places for text in (str(place), str(place.resolve()))}
    anchors = {place.anchor for place in places}
    return sorted(texts - anchors, key=len, reverse=True)


def names() -> list[str]:
    """What the person and the machine are called."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a number without a name, as in some containers
        user = ""
    return [name for name in (user, Path.home().name, platform.node()) if name]


def scrubbed(content: Any, folders: Sequence[str], names: Sequence[str]) -> Any:
    """The same lists, dicts and numbers, with texts that hold no folder, no path and no name."""
    if isinstance(content, dict):
        return {key: scrubbed(value, folders, names) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [scrubbed(value, folders, names) for value in content]
    if not isinstance(content, str):
        return content
    for folder in folders:  # also with what a pattern cannot know, as a space
        content = _in_any_spelling(folder).sub("/folder", content)
    content = PATH.sub("<path>", content)
    for name in names:
        content = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", content)
    return content


def _in_any_spelling(folder: str) -> re.Pattern[str]:
    """A folder with either slash, with doubled ones as Python quotes them, in capitals or not."""
    parts = (re.escape(part) for part in re.split(r"[\\/]+", folder))
    return re.compile(r"[\\/]+".join(parts), re.IGNORECASE)
