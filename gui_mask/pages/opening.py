"""The first page: open a project, or make one from a video."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from gui_mask import words
from gui_mask.errors import beside, caught, line, show_errors
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.recent import recent_projects
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.telling import last_time, say_while, timed
from gui_mask.videos import BASES, OpenedVideo, base_config, is_trial, keep_upload, look
from maskora.app.prepare import prepare_workspace
from maskora.app.shot_notes import describe_shots
from maskora.app.workspace import Workspace
from maskora.errors import UserError

PROGRESS = gr.Progress()  # gradio looks for one among the defaults


class OpeningPage:
    """Its widgets, and what they do.

    Args:
        enter: opens a workspace by its path, and answers for the components `entered`.
    """

    def __init__(
        self, state: AppState, enter: Callable[[str], list[Any]], entered: list[Any], tab: gr.Tab
    ) -> None:
        self.state, self.enter, self.entered = state, enter, entered
        where = words.inside_of(state.guard.allowed)
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown(f"### {words.OPEN_PROJECT}")
                self.recent = gr.Gallery(
                    label=words.RECENT, show_label=False, columns=2, height="auto",
                    allow_preview=False, object_fit="cover", interactive=False, buttons=[],
                    visible=False, elem_id="recent",
                )  # fmt: skip
                root = gr.Textbox(
                    label=words.PROJECT_FOLDER, placeholder="my-edit", value=state.first, info=where
                )
                self.root_wrong = beside()
                go = gr.Button(words.OPEN)
            with gr.Column(min_width=420, scale=2):
                gr.Markdown(f"### {words.NEW_PROJECT}")
                self._lay_out_video(where)
                with gr.Column(visible=False) as self.details:
                    self._lay_out_details()
        self.clip = gr.State(None)
        self.roots = gr.State([])  # of the recent projects that are shown
        say_while(
            [go.click, root.submit], "open", self.root_wrong, self.open_typed, root,
            [*entered, self.root_wrong],
        )  # fmt: skip
        self.recent.select(self.open_recent, self.roots, entered, **PRIVATE)
        tab.select(self.show_recent, None, [self.recent, self.roots], **SILENT)
        self._wire()

    def _lay_out_video(self, where: str) -> None:
        with gr.Row():
            self.upload = gr.File(
                label=words.VIDEO, file_types=["video"], height=150, elem_id="video"
            )
            with gr.Column():
                self.typed = gr.Textbox(label=words.VIDEO_PATH, placeholder="walk.mp4", info=where)
                self.seek = gr.Button(words.LOAD_VIDEO, size="sm")
        self.video_wrong = beside()

    def _lay_out_details(self) -> None:
        self.found = gr.Markdown()
        with gr.Row():
            self.picture = gr.Image(
                label=words.FIRST_FRAME, interactive=False, height=260, format="jpeg",
                buttons=["fullscreen"],
            )  # fmt: skip
            with gr.Column():
                with gr.Row():
                    self.start = gr.Number(
                        0, label=words.START_FRAME, precision=0, minimum=0, min_width=100
                    )
                    self.every = gr.Number(
                        1, label=words.EVERY_NTH, precision=0, minimum=1, min_width=100
                    )
                self.frames = gr.Slider(
                    5, 81, 49, step=1, label=words.FRAMES, info=words.FRAMES_INFO
                )
                self.whole = gr.Checkbox(label=words.WHOLE_CLIP)
                self.size = gr.Dropdown(
                    words.SIZES, value="auto", label=words.SIZE, allow_custom_value=True,
                    info=words.SIZE_INFO,
                )  # fmt: skip
        self._lay_out_task()
        with gr.Row():
            base = next(iter(BASES))
            self.base = gr.Dropdown([*BASES], label=words.PRESET, value=base, info=_about(base))
            with gr.Column():
                path = base_config(base).model.path
                self.model = gr.Textbox(label=words.LOCATION, placeholder=path)
                self.model_wrong = beside()
        self.target = gr.Textbox(label=words.TARGET)
        self.target_wrong = beside()
        self.make = gr.Button(words.CREATE, variant="primary")
        self.make_wrong = beside()

    def _lay_out_task(self) -> None:
        self.task = gr.Radio(words.TASKS, value="change", label=words.TASK)
        with gr.Row(visible=False) as self.adding:
            self.place = gr.Textbox(label=words.PLACE, info=words.PLACE_INFO)
            self.follow = gr.Radio(words.FOLLOWS, value="background", label=words.FOLLOW)
            self.point = gr.Textbox(label=words.POINT, info=words.POINT_INFO, visible=False)
        self.place_wrong = beside()
        self.corner = gr.State(None)

    def _wire(self) -> None:
        set_by_base = [self.frames, self.size, self.base, self.model]
        found = [
            self.upload, self.clip, self.found, self.picture, self.target, self.details,
            self.place, self.point, self.corner, *set_by_base, self.video_wrong,
        ]  # fmt: skip
        say_while(
            [self.upload.upload], "video", self.video_wrong, self.find_upload,
            [self.upload, self.base], found,
        )  # fmt: skip
        say_while(
            [self.seek.click, self.typed.submit], "video", self.video_wrong, self.find_typed,
            [self.typed, self.base], found,
        )  # fmt: skip
        span = [self.clip, self.start, self.every, self.frames]
        gr.on(
            [self.start.change, self.every.change], self.change_span, span,
            [self.frames, self.picture], **SILENT,
        )  # fmt: skip
        self.base.input(
            self.take_base, [self.clip, self.start, self.every, self.base], set_by_base, **SILENT
        )
        self.whole.change(
            lambda whole: gr.Slider(interactive=not whole), self.whole, self.frames, **SILENT
        )
        self.task.change(
            lambda task: gr.Row(visible=task == "add"), self.task, self.adding, **SILENT
        )
        self.follow.change(
            lambda what: gr.Textbox(visible=what == "thing"), self.follow, self.point, **SILENT
        )
        places = [self.corner, self.place, self.point]
        self.picture.select(self.point_at, [self.task, *places], places, **SILENT)
        given = [
            *span, self.whole, self.size, self.base, self.model, self.target, self.task,
            self.place, self.follow, self.point,
        ]  # fmt: skip
        self.wrong = [self.place_wrong, self.model_wrong, self.target_wrong, self.make_wrong]
        made = [*self.entered, *self.wrong, self.clip, self.details, self.typed]
        self.make.click(self.make_workspace, given, made, **PRIVATE)

    def show_recent(self) -> list[Any]:
        """The recent projects, as pictures to press."""
        projects = recent_projects(self.state.guard.allowed)
        shown = [(p.picture_HWC, f"{p.root.name} · {p.next}") for p in projects]
        gallery = gr.Gallery(shown, visible=bool(shown), selected_index=None)
        return [gallery, [str(project.root) for project in projects]]

    @show_errors
    def open_recent(self, roots: list[str], event: gr.SelectData) -> list[Any]:
        return self.enter(roots[event.index])

    def open_typed(self, text: str) -> list[Any]:
        """Enter a project by its folder."""
        with caught() as problem:
            return [*self.enter(text), line()]
        return [*(gr.skip() for _ in self.entered), line(problem)]

    def find_upload(self, upload: str, base: str) -> Any:
        """Look at an uploaded video; the drop area is empty again, also after a refusal."""
        with caught() as problem:
            clip = look(self.state.upload(upload), True, self.state.limits)
            return self._found(clip, base)
        return {self.upload: None, self.video_wrong: line(problem)}

    def find_typed(self, typed: str, base: str) -> Any:
        """Look at a video on this machine."""
        with caught() as problem:
            clip = look(self.state.guard.resolve(typed), False, self.state.limits)
            return self._found(clip, base)
        return {self.video_wrong: line(problem)}

    def _found(self, clip: OpenedVideo, base: str) -> list[Any]:
        first, target = clip.frame(0), clip.suggested_root(self.state.guard.allowed[0])
        return [
            None, clip, clip.description(), first, target, gr.Column(visible=True), "", "", None,
            *_of_base(clip.longest(0, 1), base), line(),
        ]  # fmt: skip

    @show_errors
    def take_base(self, clip: OpenedVideo | None, start: int, every: int, base: str) -> list[Any]:
        """The frames and the size that a base's configuration asks for."""
        if clip is None:
            return [gr.skip()] * 4
        return _of_base(clip.longest(int(start or 0), int(every or 1)), base)

    @show_errors
    def change_span(
        self, clip: OpenedVideo | None, start: int, every: int, frames: int
    ) -> list[Any]:
        """As many frames as there are from another start; its picture."""
        if clip is None:
            return [gr.skip(), gr.skip()]
        longest = clip.longest(int(start or 0), int(every or 1))
        return [gr.Slider(5, longest, min(frames, longest), step=1), clip.frame(int(start or 0))]

    def point_at(
        self, task: str, corner: list[int] | None, place: str, point: str, event: gr.SelectData
    ) -> list[Any]:
        """A click in the first frame: a corner of the place, the other one, then the thing."""
        if task != "add":
            return [corner, place, point]
        x, y = (int(side) for side in event.index)
        if corner is not None:
            return [None, box_between(corner, [x, y]), point]
        if place and not point:
            return [None, place, f"{x},{y}"]
        return [[x, y], "", ""]

    def make_workspace(
        self, clip: OpenedVideo, start: int, every: int, frames: int, whole: bool, size: str,
        base: str, model: str, target: str, task: str, place: str, follow: str, point: str,
        progress: gr.Progress = PROGRESS,
    ) -> Any:  # fmt: skip
        """Prepare, and enter what was made; what is wrong is said beside its field."""
        says = words.doing("create", last_time("create"))

        def watch(frames: Iterable[np.ndarray], total: int) -> Iterable[np.ndarray]:
            for number, frame in enumerate(frames):
                progress((number, total), desc=says)
                yield frame

        given: dict[str, Any] = {
            "video.start": int(start or 0),
            "video.every": int(every or 1),
            "video.frames": "all" if whole else int(frames),
            "video.size": size.strip() or "auto",
            "motion.task": task,
        }
        with caught() as place_wrong:
            box, carried = added(task, place, follow, point)
        with caught() as model_wrong:
            if model.strip():
                given["model.path"] = self.state.guard.model(model.strip(), Path.cwd())
        with caught() as target_wrong:
            root = self._new_root(target)
        wrong = [line(one) for one in (place_wrong, model_wrong, target_wrong)]
        if place_wrong.text or model_wrong.text or target_wrong.text:
            return dict(zip(self.wrong, [*wrong, line()], strict=True))
        with caught() as make_wrong, timed("create"):
            with keep_upload(clip, root) as video:
                prepare_workspace(
                    video=video, root=root, mask=None, box=box, base=BASES[base], given=given,
                    overrides=[], overwrite=False, watch=watch, follow=carried,
                )  # fmt: skip
            return [*self.enter(str(root)), *wrong, line(), None, gr.Column(visible=False), ""]
        return dict(zip(self.wrong, [*wrong, line(make_wrong)], strict=True))

    def _new_root(self, target: str) -> Path:
        """Where a project is made. Raises UserError: there is one already."""
        root = self.state.guard.resolve(target)
        if Workspace(root).config.exists():
            raise UserError(words.is_project(root))
        return root


def added(task: str, place: str, follow: str, point: str) -> tuple[str | None, str | None]:
    """The box of something that is to be added, and what it moves with; else neither.

    Raises:
        UserError: one of them is not said.
    """
    if task != "add":
        return None, None
    if not place.strip():
        raise UserError(words.NO_PLACE)
    if follow == "thing" and not point.strip():
        raise UserError(words.NO_POINT)
    return place.strip(), point.strip() if follow == "thing" else "background"


def box_between(one: list[int], other: list[int]) -> str:
    """The box of two opposite corners, as X,Y,W,H; both are in it."""
    (x0, x1), (y0, y1) = (sorted(sides) for sides in zip(one, other, strict=True))
    return f"{x0},{y0},{x1 - x0 + 1},{y1 - y0 + 1}"


def _of_base(longest: int, base: str) -> list[Any]:
    """The frames, the size and the model of a base's configuration, for their widgets."""
    config = base_config(base)
    wanted = config.video.frames
    frames = longest if wanted == "all" else min(wanted, longest)
    return [
        gr.Slider(5, longest, frames, step=1),
        config.video.size,
        gr.Dropdown(info=_about(base)),
        gr.Textbox(placeholder=config.model.path),
    ]


def _about(base: str) -> str:
    return words.TRIAL if is_trial(base) else ""


def summary(session: Session) -> str:
    """An open workspace in a line, as Markdown."""
    source, (width, height) = session.source, session.source.size
    base = session.config.model.base
    base = Path(base).name if Path(base).is_absolute() else base
    shots = describe_shots(source)
    clip = words.clip(source.frames, f"{width}×{height}", float(source.rate))
    parts = [
        f"**{_as_code(session.workspace.root.name)}** &nbsp; {clip}, {words.FROM} "
        f"{_as_code(Path(source.origin).name)}",
        f"{words.WITH_MODEL} {_as_code(base)}",
        *([f"{shots}: {words.EDIT_EACH_SHOT}"] if shots else []),
    ]
    return " &nbsp;·&nbsp; ".join(parts)


def _as_code(text: str) -> str:
    """A name, in which nothing is taken for Markdown."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
