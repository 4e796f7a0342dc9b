"""Ctrl-C, SIGTERM and Ctrl-Break: remembered as well as raised, so that none of them is lost.

Python ignores an exception that comes up in the callback of a weak reference or in a __del__, and
libraries that are just being imported turn it into errors of their own. So what came is looked at
again at each step of long work.
"""

import signal
from types import FrameType

from maskora.system import INTERRUPTIONS

_came: list[int] = []
_ending = False


def catch() -> None:
    """Let them end a command alike, from now on; whoever ignores one goes on ignoring it."""
    _came.clear()
    for number in INTERRUPTIONS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def forget() -> None:
    """The command that they were for has ended."""
    global _ending
    _came.clear()
    _ending = False


def come_late() -> None:
    """Take no notice of those that come from now on: the command is ending by itself."""
    global _ending
    _ending = True


def came() -> bool:
    """Whether the command was interrupted."""
    return bool(_came)


def check() -> None:
    """Raise KeyboardInterrupt where the command was interrupted and goes on all the same."""
    if _came:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _ending:
        return
    _came.append(number)
    raise KeyboardInterrupt
