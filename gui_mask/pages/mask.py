"""The mask page: click the object, follow it, look at the region, save."""

from typing import Any, get_args

import gradio as gr

from gui_mask.answers import told_on_page
from gui_mask.desk import Desk
from gui_mask.region import Region
from gui_mask.session import Session
from gui_mask.viewer import shows, viewer
from maskora.masks.shapes import MaskShape

GUIDE = (
    "Click the object. Right-click (or Shift-click) what does not belong to it. Follow it through "
    "the clip, look at the frames, click again where it went wrong, and follow once more."
)
TRACKERS = [("simple: no download, easy clips", "simple"), ("SAM2: needs a checkpoint", "sam2")]
SHAPES = [
    ("box (the best edits)", "box"),
    ("hull", "hull"),
    ("tight: the silhouette", "tight"),
    ("noisy", "noisy"),
    ("full: the whole picture", "full"),
]


def build(desk: Desk, token: gr.State) -> None:
    """Lay the page out and wire it."""
    gr.Markdown(GUIDE)
    with gr.Row():
        with gr.Column(scale=4, min_width=520):
            canvas = viewer(desk.sessions)
        with gr.Column(scale=1, min_width=260):
            with gr.Group():
                shape = gr.Dropdown(SHAPES, value="box", label="Region that is edited")
                margin = gr.Slider(0, 1, 0.1, step=0.01, label="Margin (share of the box)")
                smooth = gr.Slider(1, 25, 5, step=1, label="Steadied over (frames)")
            save = gr.Button("Save the masks", variant="primary")
            by_hand = gr.Checkbox(
                label="Replace the masks that I have painted by hand", visible=False
            )
            saved = gr.Markdown()
            with gr.Accordion("Tracker", open=False):
                kind = gr.Radio(TRACKERS, value="simple", label="Who follows")
                checkpoint = gr.Textbox(
                    label="SAM2 checkpoint", info="a hub id, a folder, or an original .pt file"
                )
                choose = gr.Button("Use this tracker", size="sm")
    bump = gr.State(0)
    region: list[Any] = [shape, margin, smooth]

    @told_on_page
    def opened(token: str) -> list[Any]:
        if not token:
            return [shows("", 0), "box", 0.1, 5, "simple", "", ""]
        session = desk.session(token)
        tracker = session.config.tracker
        settings = vars(session.region).values()
        return [shows(token, 0), *settings, tracker.type, tracker.checkpoint, ""]

    @told_on_page
    def preview(token: str, bump: int, shape: MaskShape, margin: float, smooth: float) -> Any:
        if not token:
            return gr.skip(), bump
        desk.session(token).set_region(_region(shape, margin, smooth))
        return shows(token, bump + 1), bump + 1

    @told_on_page
    def save_masks(
        token: str, bump: int, shape: MaskShape, margin: float, smooth: float, by_hand: bool
    ) -> list[Any]:
        session = desk.session(token)
        session.set_region(_region(shape, margin, smooth))
        if session.is_by_hand and not by_hand:
            told = "The masks were painted by hand since they were made. Tick the box to replace."
            return [gr.skip(), bump, told, gr.Checkbox(visible=True)]
        told = _saved(session, session.save(replace_by_hand=by_hand))
        return [shows(token, bump + 1), bump + 1, told, gr.Checkbox(False, visible=False)]

    @told_on_page
    def use_tracker(token: str, kind: str, checkpoint: str) -> str:
        session = desk.session(token)
        path = checkpoint.strip()
        if kind == "sam2" and (path.startswith(("/", "~", ".")) or path.endswith((".pt", ".pth"))):
            path = str(desk.places.resolve(path))
        session.set_tracker(kind, path or session.config.tracker.checkpoint)
        return f"From now on: {kind}."

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    token.change(opened, token, [canvas, *region, kind, checkpoint, saved], **private)
    for setting in region:
        setting.input(
            preview, [token, bump, *region], [canvas, bump], trigger_mode="always_last", **private
        )
    save.click(
        save_masks, [token, bump, *region, by_hand], [canvas, bump, saved, by_hand],
        api_visibility="private",
    )  # fmt: skip
    choose.click(use_tracker, [token, kind, checkpoint], saved, api_visibility="private")


def _region(shape: MaskShape, margin: float, smooth: float) -> Region:
    assert shape in get_args(MaskShape)
    return Region(shape, float(margin), int(smooth))


def _saved(session: Session, notes: list[str]) -> str:
    lines = [f"Saved in {session.workspace.masks_dir}.", *notes]
    return "\n\n".join(lines)
