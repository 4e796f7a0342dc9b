"""The first page: open a workspace, or make one from a video."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from gui_mask.answers import told_on_page
from gui_mask.desk import Desk
from gui_mask.videos import BASES, Clip, keep_upload, look
from maskora.commands.prepare import prepare_workspace

PROGRESS = gr.Progress()  # gradio looks for one among the defaults
FRAMES_TOLD = "always 4k+1; the bases know up to 81"
SIZES = [
    ("the clip's shape, about 832×480", "auto"),
    ("the clip's shape, about 1280×720", "auto:1280x720"),
    ("the clip's shape, about 480×272", "auto:480x272"),
]


def build(desk: Desk, enter: Callable[[str], list[Any]], entered: list[Any]) -> None:
    """Lay the page out and wire it; `entered` are the components that `enter` answers for."""
    with gr.Row():
        with gr.Column(min_width=320):
            gr.Markdown("### Go on with a workspace")
            root = gr.Textbox(label="Workspace folder", placeholder="my-edit", value=desk.first)
            go = gr.Button("Open")
        with gr.Column(min_width=420, scale=2):
            gr.Markdown("### Begin with a video")
            _new(desk, enter, entered)
    private: dict[str, Any] = {"api_visibility": "private"}
    gr.on([go.click, root.submit], told_on_page(enter), root, entered, **private)


def _new(desk: Desk, enter: Callable[[str], list[Any]], entered: list[Any]) -> None:
    with gr.Row():
        upload = gr.File(
            label="A video from your computer", file_types=["video"], height=150, elem_id="video"
        )
        with gr.Column():
            typed = gr.Textbox(label="… or its path on this machine", placeholder="walk.mp4")
            seek = gr.Button("Look at it", size="sm")
    clip = gr.State(None)
    with gr.Column(visible=False) as details:
        told = gr.Markdown()
        with gr.Row():
            picture = gr.Image(
                label="First frame", interactive=False, height=260, format="jpeg",
                buttons=["fullscreen"],
            )  # fmt: skip
            with gr.Column():
                start = gr.Number(0, label="First frame", precision=0, minimum=0)
                every = gr.Number(1, label="Take every n-th frame", precision=0, minimum=1)
                frames = gr.Slider(
                    5, 81, 49, step=4, label="Frames", info="always 4k+1; the bases know up to 81"
                )
                size = gr.Dropdown(
                    SIZES, value="auto", label="Size", allow_custom_value=True,
                    info="or WIDTHxHEIGHT on the model's grid",
                )  # fmt: skip
        with gr.Row():
            base = gr.Dropdown([*BASES], label="Base", value=next(iter(BASES)))
            model = gr.Textbox(
                label="Model folder or hub id", info="empty: as the base's configuration says"
            )
        target = gr.Textbox(label="Workspace folder to make")
        make = gr.Button("Make the workspace", variant="primary")

    @told_on_page
    def found(upload: str | None, typed: str) -> list[Any]:
        new = look(upload, typed, desk.places, desk.limits)
        longest, first = new.longest(0, 1), new.first_frame()
        slider = gr.Slider(5, longest, min(49, longest), step=4)
        return [new, new.told(), first, slider, new.suggested(desk.places), gr.Column(visible=True)]

    @told_on_page
    def range_changed(clip: Clip | None, start: int, every: int, frames: int) -> Any:
        if clip is None:
            return gr.skip(), gr.skip()
        longest = clip.longest(int(start or 0), int(every or 1))
        return gr.Slider(5, longest, min(frames, longest), step=4), clip.frame(int(start or 0))

    @told_on_page
    def make_workspace(
        clip: Clip, start: int, every: int, frames: int, size: str, base: str, model: str,
        target: str, progress: gr.Progress = PROGRESS,
    ) -> list[Any]:  # fmt: skip
        place = desk.places.resolve(target)

        def watch(frames: Iterable[np.ndarray], total: int) -> Iterable[np.ndarray]:
            for number, frame in enumerate(frames):
                progress((number, total), desc="frames")
                yield frame

        given: dict[str, Any] = {"video.start": int(start or 0), "video.every": int(every or 1)}
        given |= {"video.frames": int(frames), "video.size": size.strip() or "auto"}
        if model.strip():
            given["model.path"] = _model(desk, model.strip())
        with keep_upload(clip, place) as video:
            prepare_workspace(
                video=video, root=place, mask=None, box=None, base=BASES[base], given=given,
                overrides=[], overwrite=False, watch=watch,
            )  # fmt: skip
        return enter(str(place))

    private: dict[str, Any] = {"api_visibility": "private"}
    outputs = [clip, told, picture, frames, target, details]
    upload.upload(found, [upload, typed], outputs, **private)
    gr.on([seek.click, typed.submit], lambda typed: found(None, typed), typed, outputs, **private)
    gr.on(
        [start.change, every.change], range_changed, [clip, start, every, frames],
        [frames, picture], show_progress="hidden", **private,
    )  # fmt: skip
    numbers = [clip, start, every, frames, size, base, model, target]
    make.click(make_workspace, numbers, entered, **private)


def _model(desk: Desk, text: str) -> str:
    """A model's folder by its whole path, if it is one that may be used; a hub id as it is."""
    looks_local = text.startswith(("/", "~", ".")) or Path(text).exists()
    return str(desk.places.resolve(text)) if looks_local else text
