"""The run page: the plan, the commands, and the work in the background."""

import html
import time
from collections.abc import Callable
from typing import Any

import gradio as gr
import pandas as pd

from gui_mask import jobs
from gui_mask.errors import caught, plain, show_errors
from gui_mask.jobs import JobState, Work
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.session import Session
from gui_mask.state import AppState
from maskora.app.timeline import clip_timeline

EVERY = 2.0  # seconds between two looks at the work
NOTHING_YET = "Nothing was started here yet."


class RunPage:
    """Its widgets, and what they do."""

    def __init__(self, state: AppState, token: gr.State, edit: gr.Dropdown, tab: gr.Tab) -> None:
        self.state = state
        with gr.Row():
            with gr.Column(min_width=420):
                gr.Markdown("### What it will take on this machine")
                self.plan = gr.HTML(container=True, elem_classes="plan")
                gr.Markdown("### The same in a terminal")
                self.commands = gr.Code(language="shell", interactive=False, show_label=False)
            with gr.Column(min_width=420):
                self._lay_out_work()
        self.timer = gr.Timer(EVERY, active=False)
        self._wire(token, edit, tab)

    def _lay_out_work(self) -> None:
        with gr.Row():
            self.preview = gr.Button("Preview", size="md", min_width=80)
            self.both = gr.Button("Train and infer", variant="primary", size="md", min_width=120)
            self.only_train = gr.Button("Train", size="md", min_width=80)
            self.only_infer = gr.Button("Infer", size="md", min_width=80)
            self.stop = gr.Button(
                "Stop", variant="stop", interactive=False, size="md", min_width=80
            )
        self.status = gr.Markdown(NOTHING_YET)
        self.loss = gr.LinePlot(
            pd.DataFrame({"step": [], "loss": [], "stage": []}), x="step", y="loss",
            color="stage", height=220, label="Loss", visible=False,
        )  # fmt: skip
        self.result = gr.HTML()
        gr.Markdown("### The end of the log")
        self.log = gr.HTML(container=True, elem_classes="log")

    def _wire(self, token: gr.State, edit: gr.Dropdown, tab: gr.Tab) -> None:
        shown = [self.status, self.log, self.loss, self.result, self.stop, self.timer]
        about = [token, edit]
        gr.on([token.change, self.timer.tick, tab.select], self.look, token, shown, **SILENT)
        gr.on(
            [tab.select, edit.change], self.show_plan, about, [self.plan, self.commands], **SILENT
        )
        self.preview.click(self._starter("preview"), about, shown, **PRIVATE)
        self.both.click(self._starter("both"), about, shown, **PRIVATE)
        self.only_train.click(self._starter("train"), about, shown, **PRIVATE)
        self.only_infer.click(self._starter("infer"), about, shown, **PRIVATE)
        self.stop.click(self.stop_it, token, shown, **PRIVATE)

    def look(self, token: str) -> list[Any]:
        """How the work stands."""
        if not token:
            return _shown(None, None)
        with caught() as problem:
            session = self.state.session(token)
            return _shown(session, jobs.read(session.workspace))
        return [plain(problem.text), *_shown(None, None)[1:]]

    def show_plan(self, token: str, edit: str) -> list[Any]:
        """A long clip's timeline and what it would take, or why it cannot be; and the commands."""
        if not token:
            return ["", ""]
        with caught() as problem:
            session = self.state.session(token)
            about = session.workspace, edit or None
            text = "\n".join([*jobs.commands(*about, "preview"), *jobs.commands(*about)])
            timeline = clip_timeline(session.config, *about)
            return [timeline + _preformatted(jobs.plan_text(session.workspace)), text]
        return [_preformatted(problem.text), ""]

    def _starter(self, what: Work) -> Callable[[str, str], Any]:
        @show_errors
        def start(token: str, edit: str) -> list[Any]:
            session = self.state.session(token)
            self.state.guard.check(session.origin)
            if not session.is_saved:
                gr.Warning("What is on the mask page is not saved: this uses the masks as saved.")
            session.release()
            return _shown(session, jobs.start(session.workspace, what, edit or None))

        return start

    @show_errors
    def stop_it(self, token: str) -> list[Any]:
        """Stop after the step in hand; at once, where that was asked for already."""
        session = self.state.session(token)
        before = jobs.read(session.workspace)
        again = before is not None and before.status == "stopping"
        return _shown(session, jobs.stop(session.workspace, at_once=again))


def _shown(session: Session | None, state: JobState | None) -> list[Any]:
    """How the work stands, for the page's components."""
    quiet = gr.Button("Stop", interactive=False)
    if session is None or state is None:
        return [NOTHING_YET, "", gr.LinePlot(visible=False), "", quiet, gr.Timer(active=False)]
    stopping = state.status == "stopping"
    stop = gr.Button("Stop at once" if stopping else "Stop", interactive=state.is_active)
    return [
        _status(state),
        _preformatted("\n".join(state.log)),
        _losses(state),
        _result(session, state),
        stop,
        gr.Timer(active=state.is_active),
    ]


def _preformatted(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _status(state: JobState) -> str:
    took = (state.job.ended or time.time()) - state.job.started
    minutes, seconds = divmod(max(0, int(took)), 60)  # the clock may have been set back
    lines = [f"**{state.status}** after {minutes} min {seconds} s"]
    if state.is_active and state.progress and state.progress.total:
        share = round(100 * state.progress.done / state.progress.total)
        lines.append(f'<progress max="100" value="{share}" style="width: 100%"></progress>')
    lines.append(plain(state.message))
    return "\n\n".join(lines)


def _losses(state: JobState) -> gr.LinePlot:
    rows = [
        {"step": step, "loss": loss, "stage": stage}
        for stage, losses in state.losses.items()
        for step, loss in losses
    ]
    return gr.LinePlot(pd.DataFrame(rows), visible=len(rows) > 1)


def _result(session: Session, state: JobState) -> str:
    """The clip, fetched from the workspace itself; its time makes the browser fetch a new one."""
    if state.result is None:
        return ""
    stamp, edit = state.result.stat().st_mtime_ns, state.job.edit or ""
    video, further = state.result.name, ("comparison.mp4", "strip.png")
    links = {
        name: f"maskora/{session.token}/output/{name}?edit={edit}&at={stamp}"
        for name in (video, *(further if video == "edited.mp4" else ()))
    }
    shown = f'<video controls loop muted autoplay style="width: 100%" src="{links[video]}">'
    anchors = [f'<a href="{link}" download>{name}</a>' for name, link in links.items()]
    folder = html.escape(str(state.result.parent))
    return f"{shown}</video><p>{' &nbsp; '.join(anchors)} &nbsp; in {folder}</p>"
