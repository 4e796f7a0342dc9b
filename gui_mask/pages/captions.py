"""A caption with its buttons: written by the person, or by the captioner."""

from pathlib import Path

import gradio as gr

from gui_mask import edits
from gui_mask.answers import told_on_page
from gui_mask.desk import Desk
from gui_mask.pages.events import PRIVATE
from gui_mask.session import Session
from maskora.app.captions import write_captions
from maskora.app.workspace import caption_beside


def caption_box(desk: Desk, token: str, image: Path, label: str) -> None:
    """What an image shows: a text that is kept in the .txt beside it.

    Args:
        token: of the page's session.
        image: in that session's workspace.
    """
    session = desk.session(token)
    text = gr.Textbox(
        caption_beside(image) or "", label=label, lines=2, placeholder=_otherwise(session, image)
    )
    with gr.Row():
        keep = gr.Button("Keep this caption", size="sm")
        write = gr.Button("Write it for me", size="sm")

    @told_on_page
    def keep_it(text: str) -> None:
        edits.set_caption(session.workspace, image, text)
        gr.Info("The caption is kept." if text.strip() else "The caption is removed.")

    @told_on_page
    def write_it() -> str:
        session.release()  # the captioner may need the card's memory
        told = write_captions(session.config, session.workspace, [image])[image]
        keep_it(told)
        return told

    keep.click(keep_it, text, None, **PRIVATE)
    write.click(write_it, None, text, **PRIVATE)


def _otherwise(session: Session, image: Path) -> str:
    """Where the caption comes from as long as none is kept here."""
    prompt = session.config.prompt
    is_source = image == session.workspace.source_frame(0)
    words = prompt.caption if is_source else prompt.edited_caption
    return "the captioner writes it in time" if words == "auto" else f"as in edit.toml: {words}"
