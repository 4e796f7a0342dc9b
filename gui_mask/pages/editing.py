"""The edit page: take a frame, bring it back edited, see what it will be used for."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from gui_mask import edits, words
from gui_mask.easel import easel, shows
from gui_mask.errors import beside, caught, line, plain, show_errors
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.pages.captions import CaptionBox
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.telling import say_while

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
        self.stamp = gr.State("")  # of what is shown below
        with gr.Column(visible=False) as self.below:
            gr.Markdown(f"### {words.SOURCE_SHOWS}")
            box = CaptionBox(state, token, words.SOURCE_CAPTION, _first_frame)
            box.follow(token, self.stamp)
        self._wire(token, tab)

    def _lay_out_source(self) -> None:
        self.easel = easel(self.state)
        self.frame = gr.Slider(0, 48, 0, step=1, label=words.FRAME)
        self.links = gr.HTML(elem_classes="links")

    def _wire(self, token: gr.State, tab: gr.Tab) -> None:
        token.change(
            self.open, token, [self.frame, self.edit, self.taken, self.wrong, self.below], **SILENT
        )
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
        gr.render(inputs=[token, self.edit], triggers=[self.stamp.change])(
            lambda opened, edit: self.show_edits(token, opened, edit)
        )

    @show_errors
    def open(self, token: str) -> list[Any]:
        if not token:
            return [gr.skip(), gr.skip(), "", line(), gr.Column(visible=False)]
        session = self.state.session(token)
        names = [(name, name) for name in session.workspace.named_edits()]
        slider = gr.Slider(0, session.source.frames - 1, 0, step=1)
        choices = gr.Dropdown([THE_EDIT, *names], value="")
        return [slider, choices, "", line(), gr.Column(visible=True)]

    def look(self, token: str, edit: str) -> str:
        """Changes when what is shown below does: what is laid out anew loses a click meanwhile."""
        if not token:
            return ""
        with caught() as problem:
            session = self.state.session(token)
            workspace, captions = session.workspace, session.config.prompt
            folders = (workspace.edit_dir(edit or None), workspace.masks_dir)
            files = [path for folder in folders for path in folder.glob("[!.]*")]
            files = [path for path in files if path.suffix != ".txt"]  # their boxes keep them
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

    def show_edits(self, token: gr.State, opened: str, edit: str) -> None:
        """Every edited frame beside its source, with what is said of it."""
        if not opened:
            return
        with caught() as problem:
            workspace = self.state.session(opened).workspace
            entries = edits.listing(workspace, edit or None)
            if not entries:
                gr.Markdown(f"### {words.EDITED_FRAMES}\n\n{words.NONE_YET}")
            for entry in entries:
                self._show(token, opened, edit, entry)
        if problem.text:
            gr.Markdown(plain(problem.text))

    def _show(self, token: gr.State, opened: str, edit: str, entry: edits.EditedEntry) -> None:
        gr.Markdown(f"### {words.beside_source(entry.frame)}")
        with gr.Row():
            with gr.Column(scale=3, min_width=420):
                gr.Image(
                    entry.picture, show_label=False, interactive=False, format="jpeg",
                    buttons=["fullscreen"],
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                gr.Markdown(plain(entry.note))
                caption = words.caption_of(entry.frame)
                CaptionBox(self.state, token, caption, lambda session: entry.path, opened)
                remove = gr.Button(words.remove_edited(entry.frame), size="sm")

        @show_errors
        def take_away() -> str:
            edits.remove_edit(self.state.session(opened).workspace, edit or None, entry.frame)
            return self.look(opened, edit)

        remove.click(take_away, None, self.stamp, **PRIVATE)


def _first_frame(session: Session) -> Path:
    return session.workspace.source_frame(0)
