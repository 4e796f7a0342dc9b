"""The edit page: take a frame, bring it back edited, see what it will be used for."""

import html
from typing import Any

import gradio as gr

from gui_mask import edits
from gui_mask.answers import explain, plain, told_on_page
from gui_mask.desk import Desk
from gui_mask.pages.captions import caption_box
from gui_mask.pages.events import PRIVATE, SILENT
from maskora.video.images import read_image

GUIDE = (
    "Download the first frame, change what lies inside the region in any image editor, and bring "
    "it back. For a look that evolves, do the same with a later frame."
)
FURTHER = "another name begins a further edit of the clip: its motion need not be trained anew"
THE_EDIT = ("the edit", "")


class EditPage:
    """Its widgets, and what they do.

    Attributes:
        edit: which edit it is about, "" for the unnamed one; the run page asks too.
    """

    def __init__(self, desk: Desk, token: gr.State, tab: gr.Tab) -> None:
        self.desk = desk
        gr.Markdown(GUIDE)
        with gr.Row():
            with gr.Column(scale=3, min_width=380):
                self._lay_out_source()
            with gr.Column(scale=2, min_width=320):
                self.edit = gr.Dropdown(
                    [THE_EDIT], value="", label="Edit", allow_custom_value=True, info=FURTHER
                )
                self.upload = gr.File(
                    label="This frame, edited (png, jpg or webp)", file_types=["image"],
                    height=150, elem_id="edited",
                )  # fmt: skip
                self.taken = gr.Markdown()
        self.changed = gr.State(0)
        self._wire(token, tab)

    def _lay_out_source(self) -> None:
        self.picture = gr.Image(
            label="As in the video", interactive=False, height=330, format="jpeg",
            buttons=["fullscreen"],
        )  # fmt: skip
        self.frame = gr.Slider(0, 48, 0, step=1, label="Frame")
        self.links = gr.HTML(elem_classes="links")

    def _wire(self, token: gr.State, tab: gr.Tab) -> None:
        source = [self.picture, self.links]
        opened = token.change(
            self.open, token, [self.frame, self.edit, self.changed, self.taken], **SILENT
        )
        opened.then(self.show_frame, [token, self.frame], source, **SILENT)
        self.frame.change(
            self.show_frame, [token, self.frame], source, trigger_mode="always_last", **SILENT
        )
        self.upload.upload(
            self.take,
            [token, self.edit, self.frame, self.upload, self.changed],
            [self.upload, self.taken, self.changed],
            **PRIVATE,
        )
        gr.render(
            inputs=[token, self.edit],
            triggers=[token.change, tab.select, self.edit.change, self.changed.change],
        )(self.show_edits)

    @told_on_page
    def open(self, token: str) -> list[Any]:
        """Show a workspace that was entered."""
        if not token:
            return [gr.skip(), gr.skip(), 0, ""]
        session = self.desk.session(token)
        names = [(name, name) for name in session.workspace.named_edits()]
        slider = gr.Slider(0, session.source.frames - 1, 0, step=1)
        return [slider, gr.Dropdown([THE_EDIT, *names], value=""), 0, ""]

    @told_on_page
    def show_frame(self, token: str, frame: int) -> list[Any]:
        """A source frame, for looking at and for downloading."""
        if not token:
            return [gr.skip(), gr.skip()]
        session = self.desk.session(token)
        picture = read_image(session.workspace.source_frame(frame))
        where = f"/maskora/{token}/source/{frame}.png"
        links = [f'<a href="{where}" download>Download frame {frame}</a>']
        with explain() as told:
            self.desk.places.check(session.origin)
            size = "×".join(map(str, session.source.original_size))
            links.append(f'<a href="{where}?original=1" download>Download it at {size}</a>')
        return [picture, "".join(links) + html.escape(told.text)]

    @told_on_page
    def take(self, token: str, edit: str, frame: int, upload: str, changed: int) -> list[Any]:
        """An uploaded picture becomes the edited frame."""
        workspace = self.desk.session(token).workspace
        path = edits.take_upload(workspace, edit or None, frame, self.desk.upload(upload))
        return [None, plain(f"Frame {frame} is taken: {path}"), changed + 1]

    def show_edits(self, token: str, edit: str) -> None:
        """Every edited frame beside its source, with what is said of it."""
        if not token:
            return
        with explain() as told:
            workspace = self.desk.session(token).workspace
            gr.Markdown("### What the video shows")
            caption_box(self.desk, token, workspace.source_frame(0), "Caption of the source")
            entries = edits.listing(workspace, edit or None)
            if not entries:
                gr.Markdown("### Edited frames\n\nNone yet; the first frame, 0, is needed.")
            for entry in entries:
                self._show(token, edit, entry)
        if told.text:
            gr.Markdown(plain(told.text))

    def _show(self, token: str, edit: str, entry: edits.EditedEntry) -> None:
        gr.Markdown(f"### Frame {entry.frame}: as in the video, and edited")
        with gr.Row():
            with gr.Column(scale=3, min_width=420):
                gr.Image(
                    entry.picture, show_label=False, interactive=False, format="jpeg",
                    buttons=["fullscreen"],
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                gr.Markdown(plain(entry.told))
                caption_box(self.desk, token, entry.path, f"Caption of edited frame {entry.frame}")
                remove = gr.Button(f"Remove edited frame {entry.frame}", size="sm")

        @told_on_page
        def take_away(changed: int) -> int:
            edits.remove_edit(self.desk.session(token).workspace, edit or None, entry.frame)
            return changed + 1

        remove.click(take_away, self.changed, self.changed, **PRIVATE)
