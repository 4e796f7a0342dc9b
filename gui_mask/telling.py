"""What a page says while something goes on: what it is, and how long it took here last time."""

import functools
import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from gui_mask import words
from gui_mask.pages import SILENT
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


def say_while(
    triggers: list[Any], action: str, line: gr.HTML, handler: Callable[..., Any],
    inputs: Any, outputs: list[Any],
) -> None:  # fmt: skip
    """Let events do something, and a line say so meanwhile, with the words of `words.DOING`.

    Args:
        line: of `gui_mask.errors.beside`; the handler sets it when it is through.
    """

    @functools.wraps(handler)
    def work(*given: Any) -> Any:
        with timed(action):
            return handler(*given)

    def say() -> gr.HTML:
        return gr.HTML(html.escape(words.doing(action, last_time(action))), visible=True)

    done = gr.on(triggers, say, None, line, **SILENT).then(work, inputs, outputs, **SILENT)
    done.failure(lambda: gr.HTML("", visible=False), None, line, **SILENT)
