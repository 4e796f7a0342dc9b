"""Ctrl-C between steps, so that what is saved is always a whole step."""

import logging
import signal
from types import FrameType, TracebackType

from maskora.system import INTERRUPTIONS

log = logging.getLogger("maskora")


class Interruption:
    """While active, the first Ctrl-C (or SIGTERM, or Ctrl-Break) only asks; the second stops.

    What was saved before stays whole either way.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._ask) for number in INTERRUPTIONS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("interrupted: this step is finished and saved first (again: stop at once)")
