"""The run page: the plan, the commands, the work in the background, and what came of it."""

import html
import re
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from gui_mask import jobs, presets, words
from gui_mask.errors import caught, plain, show_errors
from gui_mask.jobs import Forecast, JobState
from gui_mask.loss_chart import loss_chart
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.results import act, previews_html, queue_html, result_html, script
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.videos import BASES, base_config
from gui_mask.waiting import Ticket, Work, read_queue
from maskora.app.timeline import clip_timeline
from maskora.config import Config, set_values
from maskora.errors import UserError

COLUMNS = re.compile(r"\S {2,}\S")  # in a line of a table
EVERY = 2.0  # seconds between two looks at the work
OF_PRESET = ("family", "dtype", "transformer_dtype")  # what a preset says of the model beside path


class RunPage:
    """Its widgets, and what they do."""

    def __init__(self, state: AppState, token: gr.State, edit: gr.Dropdown, tab: gr.Tab) -> None:
        self.state = state
        self._forecasts: dict[tuple[str, str], Forecast] = {}  # of sessions and their edits
        self.effort = gr.Radio(
            [(words.EFFORTS[name], name) for name in presets.EFFORTS], label=words.EFFORT
        )
        self.about_effort = gr.Markdown()
        self.takes = gr.Markdown()
        with gr.Row(elem_classes="run"):
            with gr.Column(min_width=420):
                self._lay_out_plan()
            with gr.Column(min_width=420, elem_classes="work"):
                self._lay_out_work()
        self.timer = gr.Timer(EVERY, active=False)
        self.wanted = gr.State("")  # the work that waits until the mask is saved
        self.active = gr.State(False)  # as the page last saw it
        self._wire(token, edit, tab)

    def _lay_out_plan(self) -> None:
        gr.Markdown(f"### {words.ESTIMATE}")
        self.plan = gr.HTML(container=True, elem_classes="plan")
        with gr.Accordion(words.MODEL, open=False):
            self._lay_out_model()
        gr.Markdown(f"### {words.COMMANDS}")
        self.commands = gr.Code(
            language="shell", interactive=False, show_label=False, wrap_lines=True, lines=3,
            show_line_numbers=False, elem_classes="commands",
        )  # fmt: skip

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
        self.queue = self._results("queue")
        self.loss = gr.HTML(padding=False)
        self.previews = self._results("previews")
        self.result = self._results("results")
        gr.Markdown(f"### {words.LOG}")
        self.log = gr.HTML(container=True, elem_classes="log")

    def _results(self, name: str) -> gr.HTML:
        """A part of the page in which something may be pressed."""
        state = self.state

        # gr.HTML marks the function that it is given, by its name.
        def server(request: dict[str, Any]) -> dict[str, Any]:
            return act(state, request)

        server.__name__ = "act"
        return gr.HTML(
            css_template=script("results.css"), js_on_load=script("results.js"),
            server_functions=[server], elem_id=name, padding=False,
        )  # fmt: skip

    def _wire(self, token: gr.State, edit: gr.Dropdown, tab: gr.Tab) -> None:
        shown = [
            self.status, self.log, self.loss, self.previews, self.result, self.queue, self.stop,
            self.timer, self.active,
        ]  # fmt: skip
        about, waits = [token, edit], [self.wanted, self.unsaved]
        # At once: a question that is asked meanwhile must stay.
        tab.select(lambda: ["", gr.Group(visible=False)], None, waits, queue=False, **SILENT)
        planned = [self.plan, self.commands, self.takes]
        gr.on(
            [token.change, self.timer.tick, tab.select, edit.change, self.result.submit,
             self.queue.submit],
            self.look, about, shown, **SILENT,
        )  # fmt: skip
        # Steps that were taken are what a plan knows its times from: so also when the work ends.
        gr.on(
            [tab.select, edit.change, self.active.change], self.show_plan, about, planned, **SILENT
        )
        tab.select(self.show_model, token, [self.base, self.location], **SILENT)
        tab.select(self.show_effort, token, [self.effort, self.about_effort], **SILENT)
        self.effort.input(
            self.change_effort, [token, self.effort], [self.effort, self.about_effort], **PRIVATE
        ).then(self.show_plan, about, planned, **SILENT)
        self.change.click(
            self.change_model, [token, self.base, self.location], [self.base, self.location],
            **PRIVATE,
        ).then(self.show_effort, token, [self.effort, self.about_effort], **SILENT).then(
            self.show_plan, about, planned, **SILENT
        )  # fmt: skip
        buttons: list[tuple[gr.Button, Work]] = [
            (self.preview, "preview"), (self.both, "both"), (self.only_train, "train"),
            (self.only_infer, "infer"),
        ]  # fmt: skip
        for button, what in buttons:
            button.click(self._starter(what), about, [*shown, *waits], **PRIVATE)
        for button, saves in ((self.save, True), (self.anyway, False)):
            button.click(self._continuer(saves), [*about, self.wanted], [*shown, *waits], **PRIVATE)
        self.stop.click(self.stop_it, about, shown, **PRIVATE)

    def touching_up(self, tabs: gr.Tabs, frame: gr.Slider) -> None:
        """Let a frame of a result that is wrong be shown on the edit page, where it was laid on."""

        def show(chosen: gr.SelectData) -> list[Any]:
            return [gr.Tabs(selected="edit"), int(chosen.value)]

        self.result.select(show, None, [tabs, frame], **SILENT)

    def look(self, token: str, edit: str) -> list[Any]:
        """How the work stands; what waits is begun where nothing works any more."""
        if not token:
            return _nothing(words.NOTHING_YET)
        with caught() as problem:
            session = self.state.session(token)
            jobs.advance()
            return self._shown(session, jobs.read(session.workspace), edit)
        return _nothing(plain(problem.text))

    def show_plan(self, token: str, edit: str) -> list[Any]:
        """A long clip's timeline and what it would take, or why it cannot be; and the commands."""
        if not token:
            return ["", "", ""]
        text = ""
        with caught() as problem:
            session = self.state.session(token)
            about = session.workspace, edit or None
            text = "\n".join([*jobs.commands(*about, "preview"), *jobs.commands(*about)])
            timeline = clip_timeline(session.config, *about)
            found = jobs.forecast(*about)
            self._forecasts[token, edit] = found
            return [timeline + plan_html(found.text), text, _takes(found)]
        return [_preformatted(problem.text), text, ""]

    @show_errors
    def show_model(self, token: str) -> list[Any]:
        if not token:
            return ["", ""]
        return ["", self.state.session(token).config.model.path]

    @show_errors
    def show_effort(self, token: str) -> list[Any]:
        """Which preset edit.toml is, and what that does."""
        if not token:
            return [None, ""]
        return _effort(self.state.session(token).config)

    @show_errors
    def change_effort(self, token: str, name: presets.Effort) -> list[Any]:
        """Write a preset's settings into edit.toml."""
        session = self.state.session(token)
        set_values(session.workspace.config, presets.effort_values(name, session.config))
        return _effort(session.config)

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
            shown = self._shown(session, jobs.read(session.workspace), edit)
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
        return self._shown(session, jobs.start(session.workspace, what, edit or None), edit)

    @show_errors
    def stop_it(self, token: str, edit: str) -> list[Any]:
        """Stop after the step in hand; at once, where that was asked for already."""
        session = self.state.session(token)
        before = jobs.read(session.workspace)
        again = before is not None and before.status == "stopping"
        return self._shown(session, jobs.stop(session.workspace, at_once=again), edit)

    def _shown(self, session: Session, state: JobState | None, edit: str) -> list[Any]:
        """How the work stands, and what came of the chosen edit, for the page's components."""
        queue = read_queue()
        waiting = queue.waiting
        own = [ticket for ticket in waiting if ticket.root == session.workspace.root.absolute()]
        is_active = state is not None and state.is_active
        made = [
            previews_html(session, edit),
            "" if is_active else result_html(session, edit),
            queue_html(self.state, session, queue),
        ]
        if state is None:
            nothing = words.QUEUED.capitalize() if own else words.NOTHING_YET
            stop = gr.Button(words.STOP, interactive=False)
            return [nothing, "", "", *made, stop, gr.Timer(active=bool(waiting)), False]
        label = words.STOP_AT_ONCE if state.status == "stopping" else words.STOP
        found = self._forecasts.get((session.token, edit))
        return [
            _status(state, found, own),
            _preformatted("\n".join(state.log)),
            loss_chart(state.losses),
            *made,
            gr.Button(label, interactive=is_active),
            gr.Timer(active=is_active or bool(waiting)),
            is_active,
        ]


def _nothing(text: str) -> list[Any]:
    """No workspace, for the page's components."""
    stop = gr.Button(words.STOP, interactive=False)
    return [text, "", "", "", "", "", stop, gr.Timer(active=False), False]


def _effort(config: Config) -> list[Any]:
    """Which preset a configuration is, and what each does."""
    chosen = presets.effort_of(config)
    lines = [
        f"- **{words.EFFORTS[name]}**: {words.effort(name, *presets.steps_of(name, config))}"
        for name in presets.EFFORTS
    ]
    own = [] if chosen else [words.OWN_EFFORT]
    return [chosen, "\n\n".join([*own, "\n".join(lines)])]


def _takes(found: Forecast) -> str:
    """How long the whole edit takes on this machine."""
    known = [part.steps * part.seconds for part in found.times if part.seconds is not None]
    is_known = len(known) == sum(part.steps > 0 or part.seconds is not None for part in found.times)
    return f"**{words.takes(sum(known))}**" if is_known else words.NOT_MEASURED


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


def _status(state: JobState, found: Forecast | None, own: list[Ticket]) -> str:
    """How a job stands, and how long it still takes.

    Args:
        own: what waits of the same workspace.
    """
    took = (state.job.ended or time.time()) - state.job.started
    minutes, seconds = divmod(max(0, int(took)), 60)  # the clock may have been set back
    left = jobs.seconds_left(found.times, state) if found and state.is_active else None
    whole = f", {words.time_left(left)}" if left is not None else ""
    lines = [f"**{words.STATUS[state.status]}** ({minutes}:{seconds:02}{whole})"]
    if state.is_active and state.progress and state.progress.total:
        share = round(100 * state.progress.done / state.progress.total)
        lines.append(f'<progress max="100" value="{share}" style="width: 100%"></progress>')
    lines.append(plain(state.message))
    if own and not state.is_active:
        lines.append(f"{words.WORKS[own[0].what]} {words.QUEUED}")
    return "\n\n".join(lines)
