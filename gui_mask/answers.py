"""How the window answers what goes wrong: one sentence on the page, and nothing is lost."""

import functools
import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

import gradio as gr

from maskora.errors import Fault, UserError
from maskora.system import REPORTED_ERRNOS

Given = ParamSpec("Given")
MARKUP = frozenset("\\`*_{}[]()#+-.!|~$:")  # what Markdown lets a backslash take the sense of
SECONDS = 30  # that a message stays, unless it is closed


def plain(text: str) -> str:
    """A text that others wrote, for a place that shows Markdown: nothing in it is markup."""
    escaped = html.escape(text, quote=False)
    return "".join(f"\\{letter}" if letter in MARKUP else letter for letter in escaped)


@dataclass
class Told:
    """What is to be told; empty where all went well."""

    text: str = ""


@contextmanager
def explain(kept: str = "") -> Iterator[Told]:
    """Turn the failures that a person can act on into a sentence; a bug is raised on.

    Args:
        kept: what became of the person's work where it could not be written.
    """
    told = Told()
    try:
        yield told
    except (UserError, Fault) as error:
        told.text = str(error)
    except OSError as error:
        if error.errno not in REPORTED_ERRNOS:
            raise
        told.text = f"{error.strerror}: {error.filename or 'while writing'}. {kept}".rstrip(". ")


def told_on_page(handler: Callable[Given, Any]) -> Callable[Given, Any]:
    """A handler of an event, whose failures appear as a message; the page stays as it was."""

    @functools.wraps(handler)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Any:
        with explain() as told:
            return handler(*args, **kwargs)
        gr.Warning(html.escape(told.text), title="That did not work", duration=SECONDS)
        return gr.skip()

    return wrapper
