"""The first page: open a workspace, or make one from a video."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from gui_mask.errors import show_errors
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.videos import BASES, OpenedVideo, keep_upload, look
from maskora.app.prepare import prepare_workspace
from maskora.app.shot_notes import describe_shots

PROGRESS = gr.Progress()  # gradio looks for one among the defaults
FRAMES_INFO = "more than 49 are generated in several segments"
SIZES = [
    ("the clip's shape, about 832×480", "auto"),
    ("the clip's shape, about 1280×720", "auto:1280x720"),
    ("the clip's shape, about 480×272", "auto:480x272"),
]


class OpeningPage:
    """Its widgets, and what they do.

    Args:
        enter: opens a workspace by its path, and answers for the components `entered`.
    """

    def __init__(
        self, state: AppState, enter: Callable[[str], list[Any]], entered: list[Any]
    ) -> None:
        self.state, self.enter = state, show_errors(enter)
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("### Go on with a workspace")
                root = gr.Textbox(
                    label="Workspace folder", placeholder="my-edit", value=state.first
                )
                go = gr.Button("Open")
            with gr.Column(min_width=420, scale=2):
                gr.Markdown("### Begin with a video")
                self._lay_out_video()
                with gr.Column(visible=False) as self.details:
                    self._lay_out_details()
        self.clip = gr.State(None)
        gr.on([go.click, root.submit], self.enter, root, entered, **PRIVATE)
        self._wire(entered)

    def _lay_out_video(self) -> None:
        with gr.Row():
            self.upload = gr.File(
                label="A video from your computer", file_types=["video"], height=150,
                elem_id="video",
            )  # fmt: skip
            with gr.Column():
                self.typed = gr.Textbox(
                    label="… or its path on this machine", placeholder="walk.mp4"
                )
                self.seek = gr.Button("Look at it", size="sm")

    def _lay_out_details(self) -> None:
        self.found = gr.Markdown()
        with gr.Row():
            self.picture = gr.Image(
                label="First frame", interactive=False, height=260, format="jpeg",
                buttons=["fullscreen"],
            )  # fmt: skip
            with gr.Column():
                self.start = gr.Number(0, label="Begin at frame", precision=0, minimum=0)
                self.every = gr.Number(1, label="Take every n-th frame", precision=0, minimum=1)
                self.frames = gr.Slider(5, 81, 49, step=1, label="Frames", info=FRAMES_INFO)
                self.size = gr.Dropdown(
                    SIZES, value="auto", label="Size", allow_custom_value=True,
                    info="or WIDTHxHEIGHT on the model's grid",
                )  # fmt: skip
        with gr.Row():
            self.base = gr.Dropdown([*BASES], label="Base", value=next(iter(BASES)))
            self.model = gr.Textbox(
                label="Model folder or hub id", info="empty: as the base's configuration says"
            )
        self.target = gr.Textbox(label="Workspace folder to make")
        self.make = gr.Button("Make the workspace", variant="primary")

    def _wire(self, entered: list[Any]) -> None:
        found = [self.clip, self.found, self.picture, self.frames, self.target, self.details]
        self.upload.upload(self.find_upload, self.upload, found, **PRIVATE)
        gr.on([self.seek.click, self.typed.submit], self.find_typed, self.typed, found, **PRIVATE)
        span = [self.clip, self.start, self.every, self.frames]
        gr.on(
            [self.start.change, self.every.change], self.change_span, span,
            [self.frames, self.picture], **SILENT,
        )  # fmt: skip
        given = [*span, self.size, self.base, self.model, self.target]
        self.make.click(self.make_workspace, given, entered, **PRIVATE)

    @show_errors
    def find_upload(self, upload: str) -> list[Any]:
        return self._found(look(self.state.upload(upload), True, self.state.limits))

    @show_errors
    def find_typed(self, typed: str) -> list[Any]:
        return self._found(look(self.state.guard.resolve(typed), False, self.state.limits))

    def _found(self, clip: OpenedVideo) -> list[Any]:
        longest, first = clip.longest(0, 1), clip.frame(0)
        frames = gr.Slider(5, longest, min(49, longest), step=1)
        target = clip.suggested_root(self.state.guard.allowed[0])
        return [clip, clip.description(), first, frames, target, gr.Column(visible=True)]

    @show_errors
    def change_span(
        self, clip: OpenedVideo | None, start: int, every: int, frames: int
    ) -> list[Any]:
        """As many frames as there are from another start; its picture."""
        if clip is None:
            return [gr.skip(), gr.skip()]
        longest = clip.longest(int(start or 0), int(every or 1))
        return [gr.Slider(5, longest, min(frames, longest), step=1), clip.frame(int(start or 0))]

    @show_errors
    def make_workspace(
        self, clip: OpenedVideo, start: int, every: int, frames: int, size: str, base: str,
        model: str, target: str, progress: gr.Progress = PROGRESS,
    ) -> list[Any]:  # fmt: skip
        """Prepare, and enter what was made."""
        place = self.state.guard.resolve(target)

        def watch(frames: Iterable[np.ndarray], total: int) -> Iterable[np.ndarray]:
            for number, frame in enumerate(frames):
                progress((number, total), desc="frames")
                yield frame

        given: dict[str, Any] = {
            "video.start": int(start or 0),
            "video.every": int(every or 1),
            "video.frames": int(frames),
            "video.size": size.strip() or "auto",
        }
        if model.strip():
            given["model.path"] = self.state.guard.model(model.strip(), Path.cwd())
        with keep_upload(clip, place) as video:
            prepare_workspace(
                video=video, root=place, mask=None, box=None, base=BASES[base], given=given,
                overrides=[], overwrite=False, watch=watch,
            )  # fmt: skip
        answer: list[Any] = self.enter(str(place))
        return answer


def summary(session: Session) -> str:
    """An open workspace in a line, as Markdown."""
    source, (width, height) = session.source, session.source.size
    base = session.config.model.base
    base = Path(base).name if Path(base).is_absolute() else base
    shots = describe_shots(source)
    shots = f" &nbsp;·&nbsp; {shots}: edit a frame of each" if shots else ""
    return (
        f"**{_as_code(session.workspace.root.name)}** &nbsp; {source.frames} frames of "
        f"{width}×{height} at {float(source.rate):.3g} fps, from "
        f"{_as_code(Path(source.origin).name)} &nbsp;·&nbsp; base {_as_code(base)}{shots}"
    )


def _as_code(text: str) -> str:
    """A name, in which nothing is taken for Markdown."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
