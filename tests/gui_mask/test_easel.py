"""What the easel is answered: the tools of the edit page, and what was wrong with a request."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gui_mask import easel
from gui_mask.edits import listing, remove_edit
from gui_mask.session import Session
from gui_mask.state import AppState
from maskora.app.retouching import FrameEdit
from maskora.app.workspace import Workspace
from maskora.config import set_values
from maskora.masks.files import read_labels
from maskora.video.images import read_image, write_png
from tests.gui_mask.workspaces import copied

STROKE = {"tool": "paint", "colour": "#d03030", "radius": 5, "points": [[24, 54], [30, 54]]}


@pytest.fixture
def session(state: AppState, boxed: Workspace, tmp_path: Path) -> Session:
    return state.open(str(copied(boxed, tmp_path / "ws").root))


def use(state: AppState, session: Session, name: str, **more: Any) -> dict[str, Any]:
    request = {"token": session.token, "edit": "", "frame": 0, "name": name, **more}
    return easel.answer(state, request)


def pixels(url: str) -> np.ndarray:
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.array(Image.open(io.BytesIO(data)))


def test_a_step_is_written_and_shown_as_it_is(state: AppState, session: Session) -> None:
    workspace = session.workspace
    source = read_image(workspace.source_frame(0))
    empty = use(state, session, "look")
    assert (empty["error"], empty["steps"], empty["done"]) == ("", [], 0)
    assert np.array_equal(pixels(empty["picture"]), source)
    news = use(state, session, "step", step=STROKE)
    written = read_image(workspace.edited_frame(None, 0, ".png"))
    assert np.array_equal(pixels(news["picture"]), written)
    assert np.array_equal(pixels(news["before"]), source)
    assert news["done"] == 1
    outside = read_labels(workspace.mask(0)) == 0
    assert np.array_equal(written[outside], source[outside])
    assert written[54, 27].tolist() == [0xD0, 0x30, 0x30]
    (entry,) = listing(workspace, None)
    assert entry.note == "outside the mask it is the source, or close to it"


def test_a_preview_writes_nothing(state: AppState, session: Session) -> None:
    news = use(state, session, "preview", step={"tool": "recolour", "hue": 120})
    assert not np.array_equal(pixels(news["picture"]), pixels(news["before"]))
    assert news["done"] == 0
    assert not session.workspace.edited_files(None, 0)
    shown = pixels(news["picture"])
    use(state, session, "step", step={"tool": "recolour", "hue": 120})
    assert np.array_equal(shown, read_image(session.workspace.edited_frame(None, 0, ".png")))


def test_steps_are_taken_back_and_made_again(state: AppState, session: Session) -> None:
    first = use(state, session, "step", step=STROKE)["picture"]
    assert use(state, session, "undo")["done"] == 0
    assert not session.workspace.edited_files(None, 0)
    assert "no step" in use(state, session, "undo")["error"]
    assert use(state, session, "redo")["picture"] == first


def test_a_picture_is_uploaded_and_placed(state: AppState, session: Session) -> None:
    hat = np.zeros((8, 12, 4), np.uint8)
    hat[2:6] = (250, 200, 0, 255)
    write_png(state.scratch / "hat.png", hat)
    stored = use(state, session, "picture", path=str(state.scratch / "hat.png"))["sticker"]
    step = {"tool": "place", "picture": stored, "x": 30, "y": 54, "width": 24}
    assert pixels(use(state, session, "step", step=step)["picture"])[54, 30].tolist() == [
        250, 200, 0,
    ]  # fmt: skip
    elsewhere = use(state, session, "picture", path="/etc/hostname")
    assert "was not uploaded here" in elsewhere["error"]
    (state.scratch / "no.png").write_text("no picture")
    assert "image" in use(state, session, "picture", path=str(state.scratch / "no.png"))["error"]


def test_frames_are_copied_into_named_edits(state: AppState, session: Session) -> None:
    news = use(state, session, "copy", edit="red", number=3, edited=False)
    assert news["steps"] == ["copy of frame 3"]
    assert session.workspace.edited_frame("red", 0, ".png").is_file()
    assert "infer.py" in use(state, session, "result")["error"]


def test_a_look_is_carried_by_the_base(state: AppState, session: Session) -> None:
    workspace = session.workspace
    use(state, session, "step", step=STROKE)
    assert use(state, session, "look")["trained"] is False
    (workspace.run_dir("motion") / "step-00002").mkdir(parents=True)
    assert use(state, session, "look")["trained"] is True
    assert "has not been trained" in use(state, session, "carry", frame=5)["error"]
    set_values(workspace.config, {"inference.lora": "none"})
    assert "frame 0 is where" in use(state, session, "carry")["error"]
    news = use(state, session, "carry", frame=5)
    assert news["steps"] == ["carried from the edited frame before"]
    assert workspace.edited_frame(None, 5, ".png").is_file()


def test_a_removed_frame_has_no_steps(state: AppState, session: Session) -> None:
    use(state, session, "step", step=STROKE)
    remove_edit(session.workspace, None, 0)
    news = use(state, session, "look")
    assert news["steps"] == []
    assert np.array_equal(pixels(news["picture"]), pixels(news["before"]))


def test_without_masks_it_shows_the_frame_and_says_why(
    state: AppState, workspace: Workspace
) -> None:
    opened = state.open(str(workspace.root))
    news = use(state, opened, "look")
    assert news["region"] == []
    assert "no masks yet" in news["note"]
    assert "no masks yet" in use(state, opened, "step", step=STROKE)["error"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"name": "step", "step": {"tool": "shell"}}, "cannot be done"),
        ({"name": "step", "step": None}, "cannot be done"),
        ({"name": "nothing"}, "which is nothing"),
        ({"name": "copy", "number": "1"}, "no whole number as number"),
        ({"name": "copy", "number": 99}, "frames 0 to 8 only"),
        ({"name": "look", "frame": 99}, "frames 0 to 8 only"),
        ({"name": "look", "edit": "../up"}, "edit '../up'"),
        ({"name": "choose", "number": 3}, "no candidates"),
        ({"name": "instruct", "text": "a hat", "candidates": 1, "seed": 0}, "[editor] model"),
    ],
)
def test_wrong_requests_are_told_of(
    state: AppState, session: Session, request_: dict[str, Any], says: str
) -> None:
    news = easel.answer(state, {"token": session.token, "edit": "", "frame": 0, **request_})
    assert says in news["error"] + news.get("note", "")
    assert not session.workspace.edited_files(None, 0)


def test_the_shell_and_the_window_share_the_steps(state: AppState, session: Session) -> None:
    use(state, session, "step", step=STROKE)
    FrameEdit(session.workspace, session.config, None, 0).move(-1)
    news = use(state, session, "look")
    assert (news["done"], len(news["steps"])) == (0, 1)
