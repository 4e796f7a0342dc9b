"""The window: its pages, and how a workspace is entered."""

from typing import Any

import gradio as gr

from gui_mask.answers import explain
from gui_mask.desk import Desk, summary
from gui_mask.pages.editing import EditPage
from gui_mask.pages.events import SILENT
from gui_mask.pages.mask import MaskPage
from gui_mask.pages.opening import OpeningPage
from gui_mask.pages.running import RunPage
from maskora.files import digest

INTRODUCTION = "Open a workspace, or make one from a video."
FONTS = ["system-ui", "sans-serif"]
THEME = gr.themes.Default(
    primary_hue="emerald", font=FONTS, font_mono=["ui-monospace", "monospace"]
)
STYLE = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
.plan pre, .log pre { font: 13px/1.4 ui-monospace, monospace; }
.plan pre, .log pre { white-space: pre-wrap; overflow-wrap: anywhere; }
footer { display: none !important; }
"""


def build(desk: Desk) -> gr.Blocks:
    """The whole window."""
    with gr.Blocks(title="maskora", analytics_enabled=False, fill_width=True) as app:
        token = gr.State("")
        # What was open last, apart for each workspace that the program was started with.
        last = gr.BrowserState("", storage_key=f"maskora-{digest(desk.first)}", secret="maskora")
        head = gr.Markdown(INTRODUCTION)
        with gr.Tabs(selected="open") as tabs:

            def enter(text: str) -> list[Any]:
                session = desk.sessions.open(text)
                root = str(session.workspace.root)
                return [session.token, root, summary(session), gr.Tabs(selected="mask")]

            entered = [token, last, head, tabs]
            with gr.Tab("1 · Open", id="open"):
                OpeningPage(desk, enter, entered)
            with gr.Tab("2 · Mask", id="mask"):
                MaskPage(desk, token)
            with gr.Tab("3 · Edit", id="edit"):
                edit = EditPage(desk, token).edit
            with gr.Tab("4 · Run", id="run") as run:
                RunPage(desk, token, edit, run)

        def load(last: str) -> list[Any]:
            with explain() as told:
                return enter(last or desk.first) if last or desk.first else [gr.skip()] * 4
            return ["", "", f"{INTRODUCTION} ({told.text})", gr.skip()]

        app.load(load, last, entered, **SILENT)
    return app
