"""The picture with its timeline: a small page of its own inside the page."""

from importlib.resources import files
from typing import Any

import gradio as gr

from gui_mask.sessions import Sessions


def viewer(sessions: Sessions) -> gr.HTML:
    """The viewer. Its value is ``{"token": …, "bump": …}``: whose clip it shows, and since when."""
    here = files(__name__)

    # gr.HTML marks the functions that it is given, which bound methods do not allow.
    def view(request: dict[str, Any]) -> dict[str, Any]:
        return sessions.view(request)

    def act(request: dict[str, Any]) -> dict[str, Any]:
        return sessions.act(request)

    return gr.HTML(
        {"token": "", "bump": 0},
        html_template=here.joinpath("viewer.html").read_text(encoding="utf-8"),
        css_template=here.joinpath("viewer.css").read_text(encoding="utf-8"),
        js_on_load="\n".join(
            here.joinpath(name).read_text(encoding="utf-8") for name in ("viewer.js", "drawing.js")
        ),
        server_functions=[view, act],
        elem_id="viewer",
    )


def shows(token: str, bump: int) -> dict[str, object]:
    """A value for the viewer; another `bump` makes it look for what is new."""
    return {"token": token, "bump": bump}
