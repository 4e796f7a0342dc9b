"""The box of what an image shows: a text kept in the .txt beside it, or written for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from gui_mask import edits, words
from gui_mask.errors import beside, caught, line, show_errors
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.telling import say_while
from maskora.app.captions import write_captions
from maskora.app.workspace import caption_beside


class CaptionBox:
    """A text, two buttons and a line for what is wrong. What is typed is kept as it is typed."""

    def __init__(
        self, state: AppState, token: gr.State, label: str, image_of: Callable[[Session], Path],
        opened: str = "",
    ) -> None:  # fmt: skip
        """
        Args:
            image_of: the image, of the session of `token`.
            opened: the token where it is known already, so that the text is there at once.
        """
        self.state, self.image_of = state, image_of
        caption, otherwise = self._of_file(opened) if opened else ("", "")
        self.text = gr.Textbox(
            caption, label=label, lines=2, placeholder=otherwise, interactive=True
        )
        self.read = gr.State((opened, caption))  # what the text was when it was read, and whose
        with gr.Row():
            keep = gr.Button(words.KEEP_CAPTION, size="sm")
            write = gr.Button(words.WRITE_CAPTION, size="sm")
        says = beside()
        both = [self.text, self.read]
        keep.click(self.keep, [token, self.text], both, **PRIVATE)
        gr.on(  # "input" is of letters alone, not of what is pasted or deleted
            [self.text.input, self.text.change, self.text.blur], self.keep_what_is_new,
            [token, *both], self.read, trigger_mode="always_last", **SILENT,
        )  # fmt: skip
        say_while([write.click], "caption", says, self.write, token, [*both, says])

    def follow(self, token: gr.State, stamp: gr.State) -> None:
        """Show what is on disk when a stamp changes. Not for a box that is laid out anew then."""
        box = [self.text, self.read]
        stamp.change(self.renew, [token, *box], box, **SILENT)

    def _of_file(self, token: str) -> tuple[str, str]:
        """What is kept of the image, and where its caption comes from as long as nothing is."""
        session = self.state.session(token)
        image, prompt = self.image_of(session), session.config.prompt
        is_source = image == session.workspace.source_frame(0)
        caption = prompt.caption if is_source else prompt.edited_caption
        otherwise = words.CAPTIONER_WRITES if caption == "auto" else f"{words.AS_IN_FILE}{caption}"
        return caption_beside(image) or "", otherwise

    def renew(self, token: str, text: str, read: tuple[str, str]) -> list[Any]:
        """What is on disk now, but for a text that a person is writing."""
        if not token:
            return ["", ("", "")]
        with caught():  # the list of edited frames says it
            caption, otherwise = self._of_file(token)
            is_typed = read[0] == token and text != read[1]
            is_kept = read[0] == token and " ".join(read[1].split()) == caption
            if is_typed or is_kept:  # what is typed meanwhile stays, too
                return [gr.Textbox(placeholder=otherwise), gr.skip()]
            return [gr.Textbox(caption, placeholder=otherwise), (token, caption)]
        return [gr.skip(), gr.skip()]

    @show_errors
    def keep(self, token: str, text: str) -> list[Any]:
        kept = self._set(token, text)
        gr.Info(words.CAPTION_KEPT if kept else words.CAPTION_GONE)
        return [kept, (token, kept)]

    @show_errors
    def keep_what_is_new(self, token: str, text: str, read: tuple[str, str]) -> Any:
        """Keep what a person has changed: not a text of another project, nor one as it was read."""
        if not token or read == (token, text) or read[0] != token:
            return gr.skip()
        self._set(token, text)
        return (token, text)

    def _set(self, token: str, text: str) -> str:
        """Keep a text, or that there is none; returns it as it is kept. Raises UserError."""
        session = self.state.session(token)
        image = self.image_of(session)
        edits.set_caption(session.workspace, image, text)
        return caption_beside(image) or ""

    def write(self, token: str) -> list[Any]:
        """Have the captioner write it, and keep that."""
        with caught() as problem:
            session = self.state.session(token)
            session.release()  # the captioner may need the GPU's memory
            image = self.image_of(session)
            written = write_captions(session.config, session.workspace, [image])[image]
            return [*self.keep(token, written), line()]
        return [gr.skip(), gr.skip(), line(problem)]
