"""The mask page: click the object, track it, look at the region, save."""

from typing import Any, get_args

import gradio as gr

from gui_mask import words
from gui_mask.errors import beside, caught, line, plain, show_errors
from gui_mask.pages import PRIVATE, SILENT
from gui_mask.session import Region
from gui_mask.state import AppState
from gui_mask.telling import say_while
from gui_mask.viewer import shows, viewer
from maskora.config.tables import MaskShape


class MaskPage:
    """Its widgets, and what they do."""

    def __init__(self, state: AppState, token: gr.State) -> None:
        self.state = state
        gr.Markdown(words.MASK_GUIDE)
        with gr.Row():
            with gr.Column(scale=4, min_width=520):
                self.canvas = viewer(state)
            with gr.Column(scale=1, min_width=260):
                self._lay_out_region()
                self._lay_out_tracker()
        self.bump = gr.State(0)
        self._wire(token)

    def _lay_out_region(self) -> None:
        with gr.Group():
            shape = gr.Dropdown(words.SHAPES, value="box", label=words.SHAPE)
            margin = gr.Slider(0, 2, 0.1, step=0.01, label=words.MARGIN, info=words.MARGIN_INFO)
            smooth = gr.Slider(1, 49, 5, step=1, label=words.SMOOTHING, info=words.SMOOTHING_INFO)
        self.region: list[Any] = [shape, margin, smooth]
        self.save = gr.Button(words.SAVE_MASK, variant="primary")
        self.by_hand = gr.Checkbox(label=words.REPLACE_PAINTED, visible=False)
        self.save_wrong = beside()
        self.saved = gr.Markdown()

    def _lay_out_tracker(self) -> None:
        with gr.Accordion(words.TRACKER, open=False):
            self.kind = gr.Radio(words.TRACKERS, value="simple", label=words.TRACKER)
            self.checkpoint = gr.Textbox(label=words.CHECKPOINT, info=words.CHECKPOINT_INFO)
            self.wrong = beside()
            self.choose = gr.Button(words.APPLY, size="sm")

    def _wire(self, token: gr.State) -> None:
        shown = [
            self.canvas, *self.region, self.kind, self.checkpoint, self.saved, self.by_hand,
            self.save_wrong, self.wrong,
        ]  # fmt: skip
        token.change(self.open, token, shown, **SILENT)
        for setting in self.region:
            setting.input(
                self.preview, [token, self.bump, *self.region], [self.canvas, self.bump],
                trigger_mode="always_last", **SILENT,
            )  # fmt: skip
        say_while(
            [self.save.click], "save", self.save_wrong, self.save_masks,
            [token, self.bump, *self.region, self.by_hand],
            [self.canvas, self.bump, self.saved, self.by_hand, self.save_wrong],
        )  # fmt: skip
        self.choose.click(
            self.use_tracker, [token, self.kind, self.checkpoint], [self.saved, self.wrong],
            **PRIVATE,
        )  # fmt: skip

    @show_errors
    def open(self, token: str) -> list[Any]:
        if not token:
            return [shows("", 0), "box", 0.1, 5, "simple", "", "", _not_asked(), line(), line()]
        session = self.state.session(token)
        tracker, region = session.config.tracker, session.region
        settings = [region.shape, region.margin, region.smooth]
        chosen = [tracker.type, tracker.checkpoint]
        return [shows(token, 0), *settings, *chosen, "", _not_asked(), line(), line()]

    @show_errors
    def preview(
        self, token: str, bump: int, shape: MaskShape, margin: float, smooth: float
    ) -> list[Any]:
        """Draw the region with other settings."""
        if token:
            self.state.session(token).set_region(_region(shape, margin, smooth))
        return [shows(token, bump + 1), bump + 1]

    def save_masks(
        self, token: str, bump: int, shape: MaskShape, margin: float, smooth: float, by_hand: bool
    ) -> list[Any]:
        """Make masks of what is shown; painted ones go only when the person says so."""
        with caught() as problem:
            session = self.state.session(token)
            session.set_region(_region(shape, margin, smooth))
            if session.is_by_hand and not by_hand:
                return [gr.skip(), bump, words.PAINTED, gr.Checkbox(visible=True), line()]
            notes = session.save(replace_by_hand=by_hand)
            lines = [words.saved_in(session.workspace.masks_dir), *notes]
            said = "\n\n".join(map(plain, lines))
            return [shows(token, bump + 1), bump + 1, said, _not_asked(), line()]
        return [gr.skip(), bump, "", gr.skip(), line(problem)]

    def use_tracker(self, token: str, kind: str, checkpoint: str) -> list[Any]:
        """Choose the tracker from now on."""
        with caught() as problem:
            session = self.state.session(token)
            wanted = checkpoint.strip() or session.config.tracker.checkpoint
            if kind == "sam2":
                wanted = self.state.guard.model(wanted, session.workspace.root)
            session.set_tracker(kind, wanted)
            return [words.tracked_by(kind), line()]
        return [gr.skip(), line(problem)]


def _region(shape: MaskShape, margin: float, smooth: float) -> Region:
    assert shape in get_args(MaskShape)
    return Region(shape, float(margin), int(smooth))


def _not_asked() -> gr.Checkbox:
    """The leave to replace painted masks, not given."""
    return gr.Checkbox(False, visible=False)
