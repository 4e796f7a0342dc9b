"""A session without a page: stored at once, shared, found again, refused where it would lose."""

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from gui_mask.pages.opening import summary
from gui_mask.session import STORE_EVERY, Region, Session
from maskora.app import masking as tracking
from maskora.app.masking import load_masks
from maskora.app.workspace import ShotRecord, Workspace, working, workspace_lock
from maskora.config import load_config, set_values
from maskora.config.tables import Mask
from maskora.errors import UserError
from maskora.masks.files import read_labels, write_labels
from maskora.masks.prompts import Click
from maskora.masks.shapes import final_masks
from maskora.masks.tracking import Anchors, Silhouettes
from maskora.retouch import Paint
from tests.gui_mask.workspaces import copied, make_workspace
from tests.masks.discs import DiscTracker
from tests.masks.trackers.tiny_sam2 import write_tiny_sam2

BALL = Click(0, 24.5, 54.5)  # its centre in frame 0, at half size


@pytest.fixture
def session(workspace: Workspace) -> Iterator[Session]:
    opened = Session(workspace)
    yield opened
    opened.close()


class WaitingTracker(DiscTracker):
    """Follows discs, and stops in frame 5 until it is let go on."""

    def __init__(self) -> None:
        super().__init__(96, 160)
        self.is_there, self.may_go_on = threading.Event(), threading.Event()

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        for frame, found in zip(path, super().propagate(path, anchors), strict=True):
            if frame == 5:
                self.is_there.set()
                assert self.may_go_on.wait(60)
            yield found


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[WaitingTracker]:
    """The tracker of the sessions in this test."""
    tracker = WaitingTracker()
    monkeypatch.setattr("gui_mask.session.open_tracker", lambda *_: tracker)
    yield tracker
    tracker.may_go_on.set()


def follow(session: Session) -> None:
    session.follow(None, "both")
    wait(session)


def wait(session: Session) -> None:
    for _ in range(600):
        if session.tracking is None:
            return
        time.sleep(0.05)
    raise AssertionError("it did not end")


def test_what_is_clicked_is_found_again(workspace: Workspace) -> None:
    first = Session(workspace)
    first.point([BALL])
    follow(first)
    first.point([Click(4, 100.5, 20.5, positive=True, object_id=2)])
    shown, prompts = first.markup.shown_THW[:], first.markup.prompts
    first.close()
    again = Session(workspace)
    np.testing.assert_array_equal(again.markup.shown_THW, shown)
    assert [(p.frame, p.object_id) for p in again.markup.prompts] == [(0, 1), (4, 2)]
    np.testing.assert_allclose(
        [(p.x, p.y) for p in again.markup.prompts], [(p.x, p.y) for p in prompts], atol=0.1
    )
    again.clear_frame(4)  # what was tracked there before its clicks was kept too
    assert again.markup.objects == [1]
    assert (again.markup.shown_THW[4] == 1).any()
    again.close()


STROKE = Paint(radius=8, points=((18, 54), (30, 54)))


@pytest.mark.parametrize("kind", ["simple", "sam2"])
def test_what_is_painted_is_kept_and_the_shell_makes_the_same_masks(
    workspace: Workspace, tmp_path: Path, kind: str
) -> None:
    write_tiny_sam2(workspace.root / "sam2")
    other = copied(workspace, tmp_path / "other")
    first = Session(workspace)
    first.set_tracker(kind, "./sam2")
    first.paint(0, 1, STROKE, positive=True)
    first.paint(0, 1, Paint(radius=3, points=((24, 50),)), positive=False)
    first.paint(4, 2, Paint(radius=9, points=((110, 20),)), positive=True)
    follow(first)
    first.save()
    shown_THW = first.markup.shown_THW[:]
    first.close()
    again = Session(workspace)
    np.testing.assert_array_equal(again.markup.shown_THW, shown_THW)
    assert [str(p) for p in again.markup.prompts] == [
        "the painting of object 1 in frame 0", "the painting of object 2 in frame 4",
    ]  # fmt: skip
    paints = [f"--paint=0,{workspace.painted(0, 1)}", f"--paint=4,{workspace.painted(4, 2)},2"]
    command = [sys.executable, "-m", "maskora", "track", str(other.root), *paints]
    subprocess.run([*command, "--tracker", kind, "--checkpoint", "./sam2"], check=True)
    for frame in range(9):
        assert other.tracked(frame).read_bytes() == workspace.tracked(frame).read_bytes()
        assert other.mask(frame).read_bytes() == workspace.mask(frame).read_bytes()
    again.clear_frame(4)
    again.close()
    assert not workspace.painted(4, 2).exists()
    assert workspace.painted(0, 1).is_file()


def test_what_is_painted_and_gone_is_missed(workspace: Workspace) -> None:
    with closing(Session(workspace)) as session:
        session.paint(0, 1, STROKE, positive=True)
    workspace.painted(0, 1).unlink()
    with pytest.raises(UserError, match=r"00000-1\.png, painted by hand, is missing"):
        Session(workspace)


def test_objects_have_names(session: Session) -> None:
    session.point([BALL])
    session.name(1, "  the   ball ")
    follow(session)
    session.clear_frame(0)
    with closing(session):
        assert session.workspace.read_names() == {1: "the ball"}
        with pytest.raises(UserError, match="40 letters"):
            session.name(1, "x" * 41)
        assert session.names == {1: "the ball"}
        session.name(1, "")
        assert session.workspace.read_names() == {}


def test_saving_makes_masks_that_the_commands_read(session: Session) -> None:
    session.point([BALL])
    follow(session)
    session.set_region(Region("box", 0.3, 3))
    assert not session.is_saved
    session.save()
    assert session.is_saved
    config = load_config(session.workspace.config)
    assert (config.mask.margin, config.mask.smooth) == (0.3, 3)
    labels_THW = load_masks(session.workspace, config.mask, session.source)
    expected_THW, _ = final_masks(session.markup.shown_THW, Mask(margin=0.3, smooth=3), 8)
    np.testing.assert_array_equal(labels_THW, expected_THW)


def test_saving_keeps_the_comments_of_edit_toml(session: Session) -> None:
    before = session.workspace.config.read_text()
    session.point([BALL])
    session.set_region(Region("box", 0.25, 5))
    session.save()
    changed = session.workspace.config.read_text()
    assert changed == before.replace("margin = 0.1", "margin = 0.25")


def test_painted_masks_are_not_replaced_unasked(session: Session) -> None:
    session.point([BALL])
    session.save()
    painted = np.ones((96, 160), np.uint8)
    write_labels(session.workspace.mask(3), painted)
    with pytest.raises(UserError, match="changed by hand"):
        session.save()
    np.testing.assert_array_equal(read_labels(session.workspace.mask(3)), painted)
    session.save(replace_by_hand=True)
    assert not read_labels(session.workspace.mask(3)).all()


def test_nothing_marked_is_not_saved(session: Session) -> None:
    with pytest.raises(UserError, match="nothing is marked"):
        session.save()
    assert not session.workspace.masks_dir.exists()


def test_another_program_is_kept_out(session: Session) -> None:
    with (
        pytest.raises(UserError, match="open in another maskora"),
        workspace_lock(session.workspace),
    ):
        pass
    with pytest.raises(UserError, match="open in another maskora"):
        Session(session.workspace)
    session.close()
    with workspace_lock(session.workspace):
        pass


def test_commands_work_meanwhile_and_masks_are_saved_after_them(session: Session) -> None:
    """Clicks go on; what a training uses does not change under it."""
    with FileLock(session.workspace.work_lock):  # as another process holds it
        session.point([BALL])
        with pytest.raises(UserError, match="another maskora works in"):
            session.save()
        assert not session.workspace.masks_dir.exists()
    session.save()
    assert session.workspace.mask_record.is_file()
    with working(session.workspace):
        pass


def test_masks_are_not_saved_beside_another_page_that_works(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are threads of this program."""
    monkeypatch.setattr("maskora.app.workspace.PATIENCE", 0.1)
    session.point([BALL])
    works, enough = threading.Event(), threading.Event()

    def work() -> None:
        with working(session.workspace):
            works.set()
            assert enough.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert works.wait(60)
    with pytest.raises(UserError, match="another maskora works in"):
        session.save()
    assert not session.workspace.masks_dir.exists()
    enough.set()
    thread.join()
    session.save()
    assert session.workspace.mask_record.is_file()


def test_what_would_disturb_the_following_is_refused(
    session: Session, waiting: WaitingTracker
) -> None:
    session.point([BALL])
    session.follow(None, "both")
    assert waiting.is_there.wait(60)
    for disturb in (lambda: session.point([BALL]), session.undo, session.save, session.release):
        with pytest.raises(UserError, match="being tracked right now"):
            disturb()
    assert not waiting.closed
    threading.Timer(0.2, waiting.may_go_on.set).start()
    session.stop_tracking()
    assert "stopped after" in session.message
    session.undo()
    assert not session.markup.shown_THW[1:].any()
    assert session.markup.prompts == (BALL,)


def test_a_full_disk_loses_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tracking, "write_labels", full)
    with pytest.raises(OSError, match="No space left"):
        session.point([BALL])
    assert session.markup.shown_THW[0].any()
    assert not session.workspace.tracking_record.exists()
    monkeypatch.undo()
    session.point([Click(1, 30.5, 50.5)])
    session.close()
    again = Session(session.workspace)
    assert len(again.markup.prompts) == 2
    assert again.markup.shown_THW[0].any()
    again.close()


@pytest.mark.parametrize("act", ["click", "undo", "save"])
def test_masks_from_a_box_are_not_lost(tmp_path: Path, boxed: Workspace, act: str) -> None:
    """What the masks came from is what the page starts with, also when it is opened again."""
    workspace = copied(boxed, tmp_path / "boxed")
    session = Session(workspace)
    before_THW = session.markup.shown_THW[:]
    assert before_THW.any(axis=(1, 2)).all()
    if act == "save":
        session.save()
    else:
        session.point([Click(0, 120.0, 20.0, object_id=2)])
    if act == "undo":
        session.undo()
    session.close()
    again = Session(workspace)
    np.testing.assert_array_equal(again.markup.shown_THW[1:], before_THW[1:])
    again.close()


@pytest.mark.parametrize(("fit", "size"), [("pad", "160x160"), ("stretch", "640x384")])
def test_a_click_anywhere_can_be_opened_again(
    tmp_path: Path,
    rolling: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    fit: str,
    size: str,
) -> None:
    """Also one in the bars beside the picture, and on its very edge."""
    workspace = make_workspace(
        tmp_path / "ws", rolling, tiny_model, f"video.fit={fit}", size=size, frames=5
    )
    session = Session(workspace)
    width, height = session.source.size
    tracker = DiscTracker(height, width)
    monkeypatch.setattr("gui_mask.session.open_tracker", lambda *_: tracker)
    places = [(0.0, 0.0), (1.0, 1.0), (0.4, 0.05), (0.999, 0.5)]
    clicks = [Click(0, x * (width - 1), y * (height - 1)) for x, y in places]
    session.point(clicks)
    session.close()
    again = Session(workspace)
    found = again.markup.prompts
    again.close()
    np.testing.assert_allclose([(c.x, c.y) for c in found], [(c.x, c.y) for c in clicks], atol=0.3)


def test_what_is_followed_is_stored_on_the_way(session: Session, waiting: WaitingTracker) -> None:
    """A program that is killed in the middle has stored what it had done a while ago."""
    session.point([BALL])
    session.version = STORE_EVERY - 3
    session.follow(None, "both")
    assert waiting.is_there.wait(60)
    assert read_labels(session.workspace.tracked(2)).any()
    waiting.may_go_on.set()
    wait(session)


def test_the_shots_of_a_clip_are_shown(workspace: Workspace) -> None:
    source = workspace.read_source()
    shot = ShotRecord(kind="fade", frame=5, first=4, last=6)
    workspace.write_source(source.model_copy(update={"shots": (shot,)}))
    with closing(Session(workspace)) as session:
        assert "2 shots, new ones from frame 7 (a fade, frames 4 to 6)" in summary(session)


def test_an_open_workspace_is_not_prepared_anew(
    session: Session, rolling: Path, tiny_model: Path
) -> None:
    with pytest.raises(UserError, match="open in another maskora"):
        make_workspace(
            session.workspace.root, rolling, tiny_model, size="192x128", frames=5, overwrite=True
        )
    assert session.workspace.read_source().frames == 9


def test_the_whole_picture_needs_no_click(session: Session) -> None:
    session.set_region(Region("full", 0.1, 5))
    session.save()
    assert read_labels(session.workspace.mask(4)).all()


def test_a_tracker_is_remembered(session: Session) -> None:
    session.set_tracker("sam2", "/models/sam2")
    tracker = load_config(session.workspace.config).tracker
    assert (tracker.type, tracker.checkpoint) == ("sam2", "/models/sam2")
    with pytest.raises(UserError, match="tracker"):
        session.point([BALL])
    assert session.markup.prompts == ()


def test_values_that_cannot_be_are_not_written(workspace: Workspace) -> None:
    before = workspace.config.read_text()
    with pytest.raises(UserError, match="margin"):
        set_values(workspace.config, {"mask.margin": -1.0})
    assert workspace.config.read_text() == before
