"""Errors as the page shows them: one sentence, and nothing is lost."""

import functools
import html
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

import gradio as gr

from gui_mask import words
from maskora.errors import Fault, UserError
from maskora.system import REPORTED_ERRNOS, explain

Given = ParamSpec("Given")
MARKUP = frozenset("\\`*_{}[]()#+-.!|~$:")  # what Markdown lets a backslash take the sense of
SECONDS = 30  # that a message stays, unless it is closed


def plain(text: str) -> str:
    """A text that others wrote, for a place that shows Markdown: nothing in it is markup."""
    escaped = html.escape(text, quote=False)
    return "".join(f"\\{letter}" if letter in MARKUP else letter for letter in escaped)


@dataclass
class Problem:
    """What went wrong, in a sentence for the person; empty where nothing did."""

    text: str = ""


@contextmanager
def caught(kept: str = "") -> Iterator[Problem]:
    """Turn the failures that a person can act on into a `Problem`; a bug is raised on.

    Args:
        kept: what became of the person's work where it could not be written.
    """
    problem = Problem()
    try:
        yield problem
    except (UserError, Fault) as error:
        problem.text = without_scratch(str(error))
    except UnicodeEncodeError as error:
        problem.text = f"this holds half a character, and cannot be written ({error.reason})"
    except OSError as error:
        if error.errno not in REPORTED_ERRNOS:
            raise
        problem.text = f"{without_scratch(explain(error))}. {kept}".rstrip(". ")


def without_scratch(text: str) -> str:
    """A message in which an upload has the name that the person knows, and no temporary path."""
    scratch = os.environ.get("GRADIO_TEMP_DIR")
    for folder in {scratch, os.path.realpath(scratch)} if scratch else ():
        text = re.sub(rf"{re.escape(folder)}[/\\\\](?:[0-9a-f]{{16,}}[/\\\\])?", "", text)
    return text


def show_errors(handler: Callable[Given, Any]) -> Callable[Given, Any]:
    """A handler of an event, whose failures appear as a message; the page stays as it was."""

    @functools.wraps(handler)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Any:
        with caught() as problem:
            return handler(*args, **kwargs)
        warn(problem.text)
        return gr.skip()

    return wrapper


def beside() -> gr.HTML:
    """A line under a field that says what is wrong with it; hidden while nothing is."""
    return gr.HTML("", visible=False, elem_classes="wrong")


def line(problem: Problem | None = None) -> gr.HTML:
    """What such a line is to say: what went wrong, or nothing."""
    text = problem.text if problem else ""
    shown = f'<span role="alert">{html.escape(text)}</span>' if text else ""
    return gr.HTML(shown, visible=bool(text))


def warn(text: str) -> None:
    """Show a message that something did not work."""
    gr.Warning(html.escape(text), title=words.FAILED, duration=SECONDS)
