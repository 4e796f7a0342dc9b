"""The edit page: take a frame, bring it back edited, see what it will be used for."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from gui_mask import edits, words
from gui_mask.easel import easel, shows
from gui_mask.errors import beside, caught, line, plain, show_errors
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.telling import say_while
from maskora.app.captions import write_captions
from maskora.app.workspace import caption_beside

THE_EDIT = (words.THE_EDIT, "")


class EditPage:
    """Its widgets, and what they do.

    Attributes:
        edit: which edit it is about, "" for the unnamed one; the run page asks too.
    """

    def __init__(self, state: AppState, token: gr.State, tab: gr.Tab) -> None:
        self.state = state
        gr.Markdown(words.EDIT_GUIDE)
        with gr.Row():
            with gr.Column(scale=4, min_width=520):
                self._lay_out_source()
            with gr.Column(scale=1, min_width=260):
                self.edit = gr.Dropdown(
                    [THE_EDIT], value="", label=words.EDIT, allow_custom_value=True,
                    info=words.EDIT_INFO,
                )  # fmt: skip
                self.upload = gr.File(
                    label=words.UPLOAD_EDITED, file_types=["image"], file_count="multiple",
                    height=150, elem_id="edited",
                )  # fmt: skip
                self.wrong = beside()
                gr.Markdown(words.UPLOAD_INFO, elem_classes="hint")
                self.taken = gr.Markdown()
        self.stamp = gr.State("")  # of what the list below shows
        self._wire(token, tab)

    def _lay_out_source(self) -> None:
        self.easel = easel(self.state)
        self.frame = gr.Slider(0, 48, 0, step=1, label=words.FRAME)
        self.links = gr.HTML(elem_classes="links")

    def _wire(self, token: gr.State, tab: gr.Tab) -> None:
        token.change(self.open, token, [self.frame, self.edit, self.taken, self.wrong], **SILENT)
        gr.on(
            [token.change, self.frame.change, self.edit.change, self.stamp.change],
            self.show_frame, [token, self.edit, self.frame, self.stamp], [self.easel, self.links],
            trigger_mode="always_last", **SILENT,
        )  # fmt: skip
        say_while(
            [self.upload.upload], "upload", self.wrong, self.take,
            [token, self.edit, self.frame, self.upload],
            [self.upload, self.taken, self.stamp, self.frame, self.wrong],
        )  # fmt: skip
        gr.on(
            [token.change, tab.select, self.edit.change, self.easel.submit],
            self.look, [token, self.edit], self.stamp,
            **SILENT,
        )  # fmt: skip
        gr.render(inputs=[token, self.edit], triggers=[self.stamp.change])(self.show_edits)

    @show_errors
    def open(self, token: str) -> list[Any]:
        if not token:
            return [gr.skip(), gr.skip(), "", line()]
        session = self.state.session(token)
        names = [(name, name) for name in session.workspace.named_edits()]
        slider = gr.Slider(0, session.source.frames - 1, 0, step=1)
        return [slider, gr.Dropdown([THE_EDIT, *names], value=""), "", line()]

    def look(self, token: str, edit: str) -> str:
        """Changes when the list must: buttons that are laid out anew lose a click meanwhile."""
        if not token:
            return ""
        with caught() as problem:
            session = self.state.session(token)
            workspace, captions = session.workspace, session.config.prompt
            folders = (workspace.edit_dir(edit or None), workspace.masks_dir)
            files = [path for folder in folders for path in folder.glob("[!.]*")]
            files.append(workspace.source_frame(0).with_suffix(".txt"))
            times = [(path.name, path.stat().st_mtime_ns) for path in files if path.is_file()]
            return repr((token, edit, captions, sorted(times)))
        return repr((token, edit, problem.text))

    @show_errors
    def show_frame(self, token: str, edit: str, frame: int, stamp: str) -> list[Any]:
        """A frame, for editing here and for downloading."""
        if not token:
            return [gr.skip(), gr.skip()]
        session = self.state.session(token)
        where = f"maskora/{token}/source/{frame}.png"
        links = [f'<a href="{where}" download>{words.download(frame)}</a>']
        with caught() as problem:
            self.state.guard.check(session.origin)
            size = "×".join(map(str, session.source.original_size))
            links.append(f'<a href="{where}?original=1" download>{words.download_at(size)}</a>')
        return [shows(token, edit, frame, stamp), "".join(links) + html.escape(problem.text)]

    def take(self, token: str, edit: str, frame: int, uploads: list[str]) -> list[Any]:
        """Uploaded pictures become the edited frames that their names say."""
        with caught() as problem:
            workspace = self.state.session(token).workspace
            files = [self.state.upload(one) for one in uploads]
            frames = edits.take_uploads(workspace, edit or None, frame, files)
            taken = plain(words.taken(frames, workspace.edit_dir(edit or None)))
            return [None, taken, self.look(token, edit), frames[0], line()]
        return [None, "", gr.skip(), gr.skip(), line(problem)]

    def show_edits(self, token: str, edit: str) -> None:
        """Every edited frame beside its source, with what is said of it."""
        if not token:
            return
        with caught() as problem:
            workspace = self.state.session(token).workspace
            gr.Markdown(f"### {words.SOURCE_SHOWS}")
            caption_box(self.state, token, workspace.source_frame(0), words.SOURCE_CAPTION)
            entries = edits.listing(workspace, edit or None)
            if not entries:
                gr.Markdown(f"### {words.EDITED_FRAMES}\n\n{words.NONE_YET}")
            for entry in entries:
                self._show(token, edit, entry)
        if problem.text:
            gr.Markdown(plain(problem.text))

    def _show(self, token: str, edit: str, entry: edits.EditedEntry) -> None:
        gr.Markdown(f"### {words.beside_source(entry.frame)}")
        with gr.Row():
            with gr.Column(scale=3, min_width=420):
                gr.Image(
                    entry.picture, show_label=False, interactive=False, format="jpeg",
                    buttons=["fullscreen"],
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                gr.Markdown(plain(entry.note))
                caption_box(self.state, token, entry.path, words.caption_of(entry.frame))
                remove = gr.Button(words.remove_edited(entry.frame), size="sm")

        @show_errors
        def take_away() -> str:
            edits.remove_edit(self.state.session(token).workspace, edit or None, entry.frame)
            return self.look(token, edit)

        remove.click(take_away, None, self.stamp, **PRIVATE)


def caption_box(state: AppState, token: str, image: Path, label: str) -> None:
    """What an image shows: a text that is kept in the .txt beside it, or that is written for it.

    Args:
        token: of the page's session.
        image: in that session's workspace.
    """
    session = state.session(token)
    text = gr.Textbox(
        caption_beside(image) or "", label=label, lines=2, placeholder=_otherwise(session, image),
        key=str(image),  # what is being typed stays when the list is laid out anew
    )  # fmt: skip
    with gr.Row():
        keep = gr.Button(words.KEEP_CAPTION, size="sm")
        write = gr.Button(words.WRITE_CAPTION, size="sm")
    says = beside()

    @show_errors
    def keep_it(text: str) -> None:
        edits.set_caption(session.workspace, image, text)
        gr.Info(words.CAPTION_KEPT if text.strip() else words.CAPTION_GONE)

    @show_errors
    def keep_what_is_new(text: str) -> None:
        """What was typed is kept when the field is left, too."""
        if text.strip() != (caption_beside(image) or "").strip():
            edits.set_caption(session.workspace, image, text)

    def write_it() -> list[Any]:
        with caught() as problem:
            session.release()  # the captioner may need the GPU's memory
            written = write_captions(session.config, session.workspace, [image])[image]
            keep_it(written)
            return [written, line()]
        return [gr.skip(), line(problem)]

    keep.click(keep_it, text, None, **PRIVATE)
    text.blur(keep_what_is_new, text, None, **SILENT)
    say_while([write.click], "caption", says, write_it, None, [text, says])


def _otherwise(session: Session, image: Path) -> str:
    """Where the caption comes from as long as none is kept here."""
    prompt = session.config.prompt
    is_source = image == session.workspace.source_frame(0)
    caption = prompt.caption if is_source else prompt.edited_caption
    return words.CAPTIONER_WRITES if caption == "auto" else f"{words.AS_IN_FILE}{caption}"
