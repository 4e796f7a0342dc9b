"""Following objects in the background: it goes on when the page is closed, and can be stopped."""

import threading
from collections.abc import Callable, Iterator

from maskora.errors import Fault, UserError

BUG = "this ended with a bug, whose traceback is in the terminal; what was done before stays"


class Following:
    """One pass through the clip, in a thread of its own.

    Attributes:
        done: how many frames are through.
        total: how many there will be.
    """

    def __init__(
        self,
        steps: Iterator[int],
        total: int,
        on_frame: Callable[[int], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Start.

        Args:
            steps: does the work; yields each frame when it is done.
            on_frame: is told each of them.
            on_end: is told how it ended, in a sentence for the person; empty where all went well.
        """
        self.done, self.total = 0, total
        self._steps, self._on_frame, self._on_end = steps, on_frame, on_end
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether it is still at it."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop after the frame in hand, and wait for that."""
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        told = BUG
        try:
            told = self._work()
        except (UserError, Fault) as error:
            told = str(error)
        except RuntimeError as error:  # torch's out-of-memory error, known without importing torch
            if type(error).__name__ != "OutOfMemoryError":
                raise
            told = "the card's memory is too small for this: close what uses it, or take a smaller "
            told += "checkpoint"
        finally:
            self._on_end(told)

    def _work(self) -> str:
        for frame in self._steps:
            self.done += 1
            self._on_frame(frame)
            if self._enough.is_set():
                return f"stopped after {self.done} of {self.total} steps; what is done stays"
        return ""
