"""What a page says while something goes on: what it is, and how long it took here last time."""

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from gui_mask import words
from maskora.app.remembered import recall, remember

TABLE = "window"
WORTH = 0.5  # seconds: what is quicker needs no word


@contextmanager
def timed(action: str) -> Iterator[None]:
    """Remember how long an action took, once it is through."""
    begun = time.monotonic()
    yield
    if (seconds := time.monotonic() - begun) >= WORTH:
        remember(TABLE, action, round(seconds, 1))


def last_time(action: str) -> float | None:
    """The seconds that an action took last on this machine; None where that is not known."""
    seconds = recall(TABLE).get(action)
    return float(seconds) if isinstance(seconds, int | float) and seconds >= WORTH else None


def saying(action: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A handler of an event, in whose place the page says meanwhile what `words.DOING` has."""

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[-1], gr.Progress):
                *args, progress = args  # type: ignore[assignment]
                progress(None, desc=words.doing(action, last_time(action)))
            with timed(action):
                return handler(*args, **kwargs)

        # Gradio gives a Progress to who has one among the defaults.
        own, kind = inspect.signature(handler), inspect.Parameter.POSITIONAL_OR_KEYWORD
        progress = inspect.Parameter("progress", kind, default=gr.Progress())
        parameters = [*own.parameters.values(), progress]
        wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate
