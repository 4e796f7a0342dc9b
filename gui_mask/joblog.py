"""What commands wrote into a log, as a person would have seen it in a terminal."""

import re
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 256 * 1024  # of the end of a log: older lines are not looked at
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(
    r"(?:(?P<title>[^|]*?): +)?\d+%\|[^|]*\| *(?P<step>\d+)/(?P<steps>\d+) "
    r"\[[\d:]+<(?P<left>[\d:?]+)[^\]]*\]"
)


@dataclass(frozen=True)
class Progress:
    """The last progress bar.

    Attributes:
        title: what advances: motion, appearance, denoise.
        step, steps: how far it is, of how many.
        left: hours:minutes:seconds that it will still take, where known.
    """

    title: str
    step: int
    steps: int
    left: str | None

    @property
    def told(self) -> str:
        """A sentence for the person."""
        left = f", {self.left} left" if self.left and self.step < self.steps else ""
        return f"{self.title or 'progress'}: step {self.step} of {self.steps}{left}"


def read_lines(path: Path, start: int = 0) -> list[str]:
    """The last lines of a log, from a byte on; of a line that was overwritten, its last state."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        begin = max(start, size - MOST_BYTES)
        file.seek(begin)
        data = file.read()
    lines = data.decode("utf-8", "replace").split("\n")
    shown = [line for raw in (lines if begin == start else lines[1:]) for line in _shown(raw)]
    return shown[:-1] if shown and not shown[-1] else shown


def _shown(raw: str) -> list[str]:
    """A line after its carriage returns; what follows a standing bar is a line of its own."""
    states = [state for state in ESCAPE.sub("", raw).split("\r") if state.strip()]
    last = states[-1].rstrip() if states else ""
    bar = BAR.match(last)
    if bar and bar.end() < len(last):
        return [last[: bar.end()], last[bar.end() :].strip()]
    return [last]


def last_command(lines: list[str]) -> list[str]:
    """The lines since the last command began."""
    starts = [number for number, line in enumerate(lines) if line.startswith("$ maskora ")]
    return lines[starts[-1] + 1 :] if starts else lines


def last_progress(lines: list[str]) -> Progress | None:
    """The last progress bar of some lines."""
    for line in reversed(lines):
        if found := BAR.match(line):
            left = found["left"]
            title = found["title"] or ""
            known = None if "?" in left else left
            return Progress(title, int(found["step"]), int(found["steps"]), known)
    return None


def complaint(lines: list[str]) -> str:
    """Why a command failed, in its own words: its last message, else its last line."""
    starts = [number for number, line in enumerate(lines) if line.startswith("maskora: ")]
    if starts:
        return "\n".join(lines[starts[-1] :]).removeprefix("maskora: ")
    return next((line for line in reversed(lines) if line), "it said nothing")
