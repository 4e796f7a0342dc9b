"""What the viewer is answered: what is new, and what was wrong with a request."""

from typing import Any

import numpy as np
import pytest

from gui_mask import viewer
from gui_mask.session import Region, Session
from gui_mask.state import AppState
from gui_mask.viewer import region_outlines
from maskora.app.workspace import Workspace
from maskora.config.tables import Mask
from maskora.masks.prompts import Click
from maskora.masks.shapes import final_masks

BALL = Click(0, 24.5, 54.5)  # its centre in frame 0, at half size


@pytest.fixture
def session(state: AppState, workspace: Workspace) -> Session:
    return state.open(str(workspace.root))


def view(state: AppState, **request: Any) -> dict[str, Any]:
    return viewer.answer(state, request, lambda session: None)


def act(state: AppState, **request: Any) -> dict[str, Any]:
    return viewer.answer(state, request, lambda session: viewer.do(session, request))


@pytest.mark.parametrize("shape", ["box", "hull", "tight", "noisy", "full"])
def test_the_preview_shows_what_will_be_saved(session: Session, shape: str) -> None:
    session.point([BALL])
    region = Region(shape, 0.2, 5)  # type: ignore[arg-type]
    session.set_region(Region("box", 0.5, 1))
    region_outlines(session)  # what it remembers is not of these settings
    session.set_region(region)
    drawn, _ = region_outlines(session)
    final_THW, _ = final_masks(session.markup.shown_THW, region.within(Mask()), 8)
    for frame, objects in enumerate(drawn):
        if not objects:
            assert not final_THW[frame].any()
            continue
        ((_, lines),) = objects
        points = np.array(lines[0]).reshape(-1, 2)
        rows, columns = np.nonzero(final_THW[frame])
        extent = [columns.min(), rows.min(), columns.max(), rows.max()]
        np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], extent, atol=1)


def test_only_what_is_new_is_sent(state: AppState, session: Session) -> None:
    token = session.token
    whole = view(state, token=token, version=0, regions=0)
    assert len(whole["frames"]) == whole["count"] == 9
    known = {"token": token, "version": whole["version"], "regions": whole["version"]}
    assert view(state, **known)["frames"] == {}
    assert "regions" not in view(state, **known)
    news = act(state, **known, name="click", frame=2, x=30, y=48, object=1, positive=True)
    assert list(news["frames"]) == ["2"]
    assert len(news["regions"]) == 9
    assert news["objects"] == [1]
    seen = view(state, token=token, version=0, regions=0)
    assert seen["frames"]["2"]["marks"] == news["frames"]["2"]["marks"]
    assert len(seen["regions"][2]) == 1


STROKE = {"name": "paint", "frame": 0, "radius": 5, "points": [[9, 9]], "object": 1,
          "positive": True}  # fmt: skip
CORNER = {"name": "click", "frame": 0, "x": 5, "y": 5, "object": 1, "positive": True}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({**CORNER, "x": 500}, "outside"),
        ({**CORNER, "frame": 99}, "frames 0 to 8"),
        ({**CORNER, "x": None}, "no number"),
        ({**CORNER, "x": float("nan")}, "no number"),
        *(({**CORNER, "object": number}, "numbered 1 to 254") for number in (0, 255, 300, -1)),
        ({"name": "follow", "direction": "both"}, "nothing is clicked"),
        ({"name": "follow", "direction": "sideways"}, "load it again"),
        ({"name": "undo"}, "nothing to undo"),
        ({"name": "redo"}, "nothing to redo"),
        ({**STROKE, "points": []}, "cannot be drawn"),
        ({**STROKE, "points": [[float("nan"), 3]]}, "cannot be drawn"),
        ({**STROKE, "radius": "wide"}, "cannot be drawn"),
        ({**STROKE, "object": 0}, "numbered 1 to 254"),
        ({**STROKE, "positive": False}, "not where the eraser went"),
        ({"name": "name", "object": 0, "text": "x"}, "numbered 1 to 254"),
        ({"name": "__init__"}, "load it again"),
        ({}, "load it again"),
    ],
)
def test_wrong_requests_are_answered(
    state: AppState, session: Session, request_: dict[str, Any], words: str
) -> None:
    news = act(state, token=session.token, version=0, regions=0, **request_)
    assert words in news["error"]
    assert news["version"] == 1


def test_an_unknown_page_is_told(state: AppState) -> None:
    assert "load the page again" in act(state, token="guess")["error"]
    assert "load the page again" in view(state)["error"]
