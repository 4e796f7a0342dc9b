"""The run page: the plan, the commands, and the work in the background."""

import html
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from gui_mask import jobs, words
from gui_mask.errors import caught, plain, show_errors
from gui_mask.jobs import JobState
from gui_mask.loss_chart import loss_chart
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.videos import BASES, base_config
from gui_mask.viewer import script
from gui_mask.waiting import Work
from maskora.app.timeline import clip_timeline
from maskora.config import set_values
from maskora.errors import UserError

COLUMNS = re.compile(r"\S {2,}\S")  # in a line of a table
EVERY = 2.0  # seconds between two looks at the work
OF_PRESET = ("family", "dtype", "transformer_dtype")  # what a preset says of the model beside path


class RunPage:
    """Its widgets, and what they do."""

    def __init__(self, state: AppState, token: gr.State, edit: gr.Dropdown, tab: gr.Tab) -> None:
        self.state = state
        with gr.Row():
            with gr.Column(min_width=420):
                gr.Markdown(f"### {words.ESTIMATE}")
                self.plan = gr.HTML(container=True, elem_classes="plan")
                with gr.Accordion(words.MODEL, open=False):
                    self._lay_out_model()
                gr.Markdown(f"### {words.COMMANDS}")
                self.commands = gr.Code(
                    language="shell", interactive=False, show_label=False, wrap_lines=True, lines=3
                )
            with gr.Column(min_width=420):
                self._lay_out_work()
        self.timer = gr.Timer(EVERY, active=False)
        self.wanted = gr.State("")  # the work that waits until the mask is saved
        self.active = gr.State(False)  # as the page last saw it
        self._wire(token, edit, tab)

    def _lay_out_model(self) -> None:
        self.base = gr.Dropdown(
            [(words.KEEP_PRESET, ""), *((name, name) for name in BASES)], value="",
            label=words.PRESET,
        )  # fmt: skip
        self.location = gr.Textbox(label=words.LOCATION)
        self.change = gr.Button(words.APPLY, size="sm")

    def _lay_out_work(self) -> None:
        with gr.Row():
            self.preview = gr.Button(words.PREVIEW, size="md", min_width=80)
            self.both = gr.Button(words.BOTH, variant="primary", size="md", min_width=190)
            self.only_train = gr.Button(words.TRAIN, size="md", min_width=80)
            self.only_infer = gr.Button(words.GENERATE, size="md", min_width=80)
            self.stop = gr.Button(
                words.STOP, variant="stop", interactive=False, size="md", min_width=80
            )
        with gr.Group(visible=False) as self.unsaved:
            gr.Markdown(words.UNSAVED, padding=True)
            with gr.Row():
                self.save = gr.Button(words.SAVE_AND_RUN, variant="primary", size="sm")
                self.anyway = gr.Button(words.RUN_ANYWAY, size="sm")
        self.status = gr.Markdown(words.NOTHING_YET)
        self.loss = gr.HTML()
        self.result = gr.HTML(js_on_load=script("compare.js"))
        gr.Markdown(f"### {words.LOG}")
        self.log = gr.HTML(container=True, elem_classes="log")

    def _wire(self, token: gr.State, edit: gr.Dropdown, tab: gr.Tab) -> None:
        shown = [
            self.status, self.log, self.loss, self.result, self.stop, self.timer, self.active
        ]  # fmt: skip
        about, planned = [token, edit], [self.plan, self.commands]
        gr.on(
            [token.change, self.timer.tick, tab.select, edit.change], self.look, about, shown,
            **SILENT,
        )  # fmt: skip
        # Steps that were taken are what a plan knows its times from: so also when the work ends.
        gr.on(
            [tab.select, edit.change, self.active.change], self.show_plan, about, planned, **SILENT
        )
        tab.select(self.show_model, token, [self.base, self.location], **SILENT)
        self.change.click(
            self.change_model, [token, self.base, self.location], [self.base, self.location],
            **PRIVATE,
        ).then(self.show_plan, about, planned, **SILENT)  # fmt: skip
        waits = [self.wanted, self.unsaved]
        tab.select(lambda: ["", gr.Group(visible=False)], None, waits, **SILENT)
        buttons: list[tuple[gr.Button, Work]] = [
            (self.preview, "preview"), (self.both, "both"), (self.only_train, "train"),
            (self.only_infer, "infer"),
        ]  # fmt: skip
        for button, what in buttons:
            button.click(self._starter(what), about, [*shown, *waits], **PRIVATE)
        for button, saves in ((self.save, True), (self.anyway, False)):
            button.click(self._continuer(saves), [*about, self.wanted], [*shown, *waits], **PRIVATE)
        self.stop.click(self.stop_it, about, shown, **PRIVATE)

    def look(self, token: str, edit: str) -> list[Any]:
        """How the work stands."""
        if not token:
            return _shown(None, None, "")
        with caught() as problem:
            session = self.state.session(token)
            return _shown(session, jobs.read(session.workspace), edit)
        return [plain(problem.text), *_shown(None, None, "")[1:]]

    def show_plan(self, token: str, edit: str) -> list[Any]:
        """A long clip's timeline and what it would take, or why it cannot be; and the commands."""
        if not token:
            return ["", ""]
        text = ""
        with caught() as problem:
            session = self.state.session(token)
            about = session.workspace, edit or None
            text = "\n".join([*jobs.commands(*about, "preview"), *jobs.commands(*about)])
            timeline = clip_timeline(session.config, *about)
            return [timeline + plan_html(jobs.plan_text(session.workspace)), text]
        return [_preformatted(problem.text), text]

    @show_errors
    def show_model(self, token: str) -> list[Any]:
        if not token:
            return ["", ""]
        return ["", self.state.session(token).config.model.path]

    @show_errors
    def change_model(self, token: str, base: str, location: str) -> list[Any]:
        """Write another model into edit.toml; one of another preset lies where that says."""
        session = self.state.session(token)
        before, values = session.config.model, {}
        path = location.strip() or before.path
        if base:
            model = base_config(base).model
            values = {f"model.{key}": getattr(model, key) for key in OF_PRESET}
        if base and path == before.path:
            path = model.path
        elif path != before.path:
            path = self.state.guard.model(path, session.workspace.root)
        set_values(session.workspace.config, {**values, "model.path": path})
        session.release()
        return ["", path]

    def _starter(self, what: Work) -> Callable[[str, str], Any]:
        @show_errors
        def start(token: str, edit: str) -> list[Any]:
            session = self.state.session(token)
            if session.is_saved:
                return [*self._start(session, edit, what), "", gr.Group(visible=False)]
            shown = _shown(session, jobs.read(session.workspace), edit)
            return [*shown, what, gr.Group(visible=True)]

        return start

    def _continuer(self, saves: bool) -> Callable[[str, str, Work], Any]:
        @show_errors
        def go_on(token: str, edit: str, what: Work) -> list[Any]:
            session = self.state.session(token)
            if saves and session.is_by_hand:
                raise UserError(words.PAINTED_UNSAVED)
            if saves:
                session.save()
            return [*self._start(session, edit, what), "", gr.Group(visible=False)]

        return go_on

    def _start(self, session: Session, edit: str, what: Work) -> list[Any]:
        self.state.guard.check(session.origin)
        session.release()
        return _shown(session, jobs.start(session.workspace, what, edit or None), edit)

    @show_errors
    def stop_it(self, token: str, edit: str) -> list[Any]:
        """Stop after the step in hand; at once, where that was asked for already."""
        session = self.state.session(token)
        before = jobs.read(session.workspace)
        again = before is not None and before.status == "stopping"
        return _shown(session, jobs.stop(session.workspace, at_once=again), edit)


def _shown(session: Session | None, state: JobState | None, edit: str) -> list[Any]:
    """How the work stands, and the chosen edit's result, for the page's components."""
    quiet, still = gr.Button(words.STOP, interactive=False), gr.Timer(active=False)
    if session is None:
        return [words.NOTHING_YET, "", "", "", quiet, still, False]
    is_active = state is not None and state.is_active
    result = "" if is_active else result_html(session, edit)
    if state is None:
        return [words.NOTHING_YET, "", "", result, quiet, still, False]
    label = words.STOP_AT_ONCE if state.status == "stopping" else words.STOP
    return [
        _status(state),
        _preformatted("\n".join(state.log)),
        loss_chart(state.losses),
        result,
        gr.Button(label, interactive=is_active),
        gr.Timer(active=is_active),
        is_active,
    ]


def plan_html(text: str) -> str:
    """A plan as HTML: what stands in columns is never broken, other lines are."""
    lines = [
        f'<span class="columns">{html.escape(line)}</span>' if COLUMNS.search(line)
        else html.escape(line)
        for line in text.splitlines()
    ]  # fmt: skip
    whole = "\n".join(lines)
    return f"<pre>{whole}</pre>"


def _preformatted(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _status(state: JobState) -> str:
    took = (state.job.ended or time.time()) - state.job.started
    minutes, seconds = divmod(max(0, int(took)), 60)  # the clock may have been set back
    lines = [f"**{words.STATUS[state.status]}** ({minutes}:{seconds:02})"]
    if state.is_active and state.progress and state.progress.total:
        share = round(100 * state.progress.done / state.progress.total)
        lines.append(f'<progress max="100" value="{share}" style="width: 100%"></progress>')
    lines.append(plain(state.message))
    return "\n\n".join(lines)


def result_html(session: Session, edit: str) -> str:
    """An edit's newest clip, fetched from the workspace; its time makes the browser fetch anew."""
    with caught() as problem:
        if (result := jobs.result(session.workspace, edit or None)) is not None:
            return _clip(session.token, result, edit)
    return html.escape(problem.text)


def _clip(token: str, result: Path, edit: str) -> str:
    stat = result.stat()
    further = ("comparison.mp4", "strip.png") if result.name == "edited.mp4" else ()
    there = [name for name in further if result.with_name(name).is_file()]
    links = {
        name: f"maskora/{token}/output/{name}?edit={edit}&at={stat.st_mtime_ns}"
        for name in (result.name, *there)
    }
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(stat.st_mtime))
    title = html.escape(words.result_of(edit or None, made))
    shown = f'<video controls loop muted autoplay style="width: 100%" src="{links[result.name]}">'
    anchors = [f'<a href="{link}" download>{name}</a>' for name, link in links.items()]
    folder = html.escape(str(result.parent))
    compared = _compared(links["comparison.mp4"]) if "comparison.mp4" in links else ""
    below = f"<p>{' &nbsp; '.join(anchors)} &nbsp; in {folder}</p>"
    return f"<h4>{title}</h4>{shown}</video>{compared}{below}"


def _compared(link: str) -> str:
    """Source and result under a line that is moved; drawn by compare.js."""
    return (
        f'<details class="compare"><summary>{words.COMPARE}</summary>'
        f'<video src="{link}" loop muted playsinline hidden preload="none"></video>'
        "<canvas></canvas>"
        f"<label>{words.EDGE}<input type=range min=0 max=100 step=0.1 value=50></label>"
        f"<label>{words.TIME}<input type=range min=0 max=100 step=0.1 value=0></label></details>"
    )
