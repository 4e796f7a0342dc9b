"""The window: its pages, and how a workspace is entered."""

from typing import Any

import gradio as gr

from gui_mask.answers import explain, plain
from gui_mask.desk import Desk, summary
from gui_mask.pages.editing import EditPage
from gui_mask.pages.events import SILENT
from gui_mask.pages.mask import MaskPage
from gui_mask.pages.opening import OpeningPage
from gui_mask.pages.running import RunPage

INTRODUCTION = "Open a workspace, or make one from a video."
FONTS = ["system-ui", "sans-serif"]
THEME = gr.themes.Default(
    primary_hue="emerald", font=FONTS, font_mono=["ui-monospace", "monospace"]
)
STYLE = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
.plan pre, .log pre { font: 13px/1.4 ui-monospace, monospace; }
.plan pre, .log pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.links a { display: inline-block; margin: 4px 8px 0 0; padding: 6px 12px; border-radius: 6px; }
.links a { background: var(--button-secondary-background-fill); color: inherit; }
.links a { text-decoration: none; font-size: 14px; }
footer { display: none !important; }
"""


def build(desk: Desk) -> gr.Blocks:
    """The whole window."""
    with gr.Blocks(title="maskora", analytics_enabled=False, fill_width=True) as app:
        token = gr.State("")
        # What was open last since the program was started: its workspace comes before older ones.
        last = gr.BrowserState(["", ""], storage_key="maskora-workspace", secret="maskora")
        head = gr.Markdown(INTRODUCTION)
        with gr.Tabs(selected="open") as tabs:

            def enter(text: str) -> list[Any]:
                session = desk.sessions.open(text)
                root = str(session.workspace.root)
                kept = [desk.run, root]
                return [session.token, kept, summary(session), gr.Tabs(selected="mask")]

            entered = [token, last, head, tabs]
            with gr.Tab("1 · Open", id="open"):
                OpeningPage(desk, enter, entered)
            with gr.Tab("2 · Mask", id="mask"):
                MaskPage(desk, token)
            with gr.Tab("3 · Edit", id="edit") as editing:
                edit = EditPage(desk, token, editing).edit
            with gr.Tab("4 · Run", id="run") as run:
                RunPage(desk, token, edit, run)

        def load(last: list[str]) -> list[Any]:
            run, root = last
            root = root if run == desk.run or not desk.first else desk.first
            with explain() as told:
                return enter(root) if root else [gr.skip()] * 4
            return ["", ["", ""], f"{INTRODUCTION} ({plain(told.text)})", gr.skip()]

        app.load(load, last, entered, **SILENT)
    return app
