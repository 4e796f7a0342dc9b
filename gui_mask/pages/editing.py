"""The edit page: take a frame, bring it back edited, see what it will be used for."""

from pathlib import Path
from typing import Any

import gradio as gr

from gui_mask import edits
from gui_mask.answers import explain, told_on_page
from gui_mask.desk import Desk
from gui_mask.pages.captions import caption_box
from maskora.video.images import read_image

GUIDE = (
    "Download the first frame, change what lies inside the region in any image editor, and bring "
    "it back. For a look that evolves, do the same with a later frame."
)
FURTHER = "another name begins a further edit of the clip: its motion need not be trained anew"


def build(desk: Desk, token: gr.State) -> gr.Dropdown:
    """Lay the page out and wire it. Returns the choice of the edit, which other pages use."""
    gr.Markdown(GUIDE)
    with gr.Row():
        with gr.Column(scale=3, min_width=380):
            picture = gr.Image(
                label="As in the video", interactive=False, height=330, format="jpeg",
                buttons=["fullscreen"],
            )  # fmt: skip
            frame = gr.Slider(0, 48, 0, step=1, label="Frame")
            with gr.Row():
                fitted = gr.DownloadButton("Download frame 0", size="sm")
                original = gr.DownloadButton("Download frame 0 at the original's size", size="sm")
        with gr.Column(scale=2, min_width=320):
            edit = gr.Dropdown(
                [("the edit", "")], value="", label="Edit", allow_custom_value=True, info=FURTHER
            )
            upload = gr.File(
                label="This frame, edited (png, jpg or webp)", file_types=["image"], height=150,
                elem_id="edited",
            )  # fmt: skip
            taken = gr.Markdown()
    changed = gr.State(0)
    _show_edits(desk, token, edit, changed)

    @told_on_page
    def opened(token: str) -> list[Any]:
        if not token:
            return [gr.skip(), gr.skip(), 0]
        session = desk.session(token)
        names = [("the edit", ""), *((name, name) for name in edits.named_edits(session.workspace))]
        slider = gr.Slider(0, session.source.frames - 1, 0, step=1)
        return [slider, gr.Dropdown(names, value=""), 0]

    @told_on_page
    def show_frame(token: str, frame: int) -> list[Any]:
        if not token:
            return [gr.skip()] * 3
        workspace = desk.session(token).workspace
        file = edits.frame_file(workspace, frame, False, desk.room(token))
        return [
            read_image(file),
            gr.DownloadButton(f"Download frame {frame}", value=file),
            _original(desk, token, frame),
        ]

    @told_on_page
    def take(token: str, edit: str, frame: int, upload: str | None, changed: int) -> list[Any]:
        if not upload:
            return [gr.skip(), gr.skip(), gr.skip()]
        workspace = desk.session(token).workspace
        path = edits.take_upload(workspace, edit or None, frame, Path(upload))
        return [None, f"Frame {frame} is taken: {path}", changed + 1]

    private: dict[str, Any] = {"api_visibility": "private"}
    silent: dict[str, Any] = {**private, "show_progress": "hidden"}
    preview = [picture, fitted, original]
    token.change(opened, token, [frame, edit, changed], **silent).then(
        show_frame, [token, frame], preview, **silent
    )
    frame.change(show_frame, [token, frame], preview, trigger_mode="always_last", **silent)
    upload.upload(take, [token, edit, frame, upload, changed], [upload, taken, changed], **private)
    return edit


def _original(desk: Desk, token: str, frame: int) -> gr.DownloadButton:
    """The same frame as the video has it; where the video may not be read, why."""
    session = desk.session(token)
    width, height = session.source.original_size
    with explain() as told:
        desk.places.check(session.origin)
        file = edits.frame_file(session.workspace, frame, True, desk.room(token))
        label = f"Download frame {frame} at {width}×{height}"
        return gr.DownloadButton(label, value=file, interactive=True)
    return gr.DownloadButton(f"Not at {width}×{height}: {told.text}", interactive=False)


def _show_edits(desk: Desk, token: gr.State, edit: gr.Dropdown, changed: gr.State) -> None:
    """Every edited frame beside its source, with what is said of it."""

    @gr.render(inputs=[token, edit], triggers=[token.change, edit.change, changed.change])
    def show(token: str, edit: str) -> None:
        if not token:
            return
        session = desk.session(token)
        with explain() as told:
            entries = edits.listing(session.workspace, edit or None)
            gr.Markdown("### What the video shows")
            caption_box(desk, token, session.workspace.source_frame(0), "Caption of the source")
            if not entries:
                gr.Markdown("### Edited frames\n\nNone yet; the first frame, 0, is needed.")
            for entry in entries:
                _one(desk, token, edit, changed, entry)
        if told.text:
            gr.Markdown(told.text)


def _one(desk: Desk, token: str, edit: str, changed: gr.State, entry: edits.EditedEntry) -> None:
    gr.Markdown(f"### Frame {entry.frame}: as in the video, and edited")
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            gr.Image(
                entry.picture, show_label=False, interactive=False, format="jpeg",
                buttons=["fullscreen"],
            )  # fmt: skip
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(entry.told)
            caption_box(desk, token, entry.path, f"Caption of edited frame {entry.frame}")
            remove = gr.Button(f"Remove edited frame {entry.frame}", size="sm")

    @told_on_page
    def take_away(changed: int) -> int:
        edits.remove_edit(desk.session(token).workspace, edit or None, entry.frame)
        return changed + 1

    remove.click(take_away, changed, changed, api_visibility="private")
