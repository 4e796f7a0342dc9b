"""No path leads out of the allowed folders; each workspace is open once, and the oldest goes."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gui_mask.session import Session
from gui_mask.state import MOST_OPEN, AppState, PathGuard
from maskora.app.workspace import Workspace
from maskora.errors import UserError
from tests.gui_mask.workspaces import copied


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The allowed folder, current and home; a secret lies beside it."""
    folder = tmp_path / "home"
    (folder / "clips").mkdir(parents=True)
    (tmp_path / "home-of-another").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_paths_inside_however_they_are_written(home: Path) -> None:
    guard = PathGuard((home,))
    clips = home.resolve() / "clips"
    for text in ("clips", "./clips/", "~/clips", str(home / "clips"), "clips/../clips", " clips "):
        assert guard.resolve(text) == clips
    assert guard.resolve(".") == home.resolve()
    assert guard.resolve("new/edit/of mine") == home.resolve() / "new/edit/of mine"


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd", "..", "../secret.mp4", "clips/../../secret.mp4", "not/there/../../../x",
        "../home-of-another", "~/../secret.mp4", "/", "/proc/self/root/etc/passwd",
    ],
)  # fmt: skip
def test_paths_outside(home: Path, text: str) -> None:
    with pytest.raises(UserError, match="lies outside the folders") as error:
        PathGuard((home,)).resolve(text)
    assert str(home) in str(error.value)
    assert "--allow DIR" in str(error.value)


def test_links_are_followed(home: Path, tmp_path: Path) -> None:
    guard = PathGuard((home,))
    (home / "out").symlink_to(tmp_path)
    (home / "file.mp4").symlink_to(tmp_path / "secret.mp4")
    (home / "dangling").symlink_to(tmp_path / "not-there")
    (home / "in").symlink_to(home / "clips")
    for text in ("out", "out/secret.mp4", "out/new/edit", "file.mp4", "dangling", "dangling/x"):
        with pytest.raises(UserError, match="lies outside"):
            guard.resolve(text)
    assert guard.resolve("in/a.mp4") == home.resolve() / "clips" / "a.mp4"
    assert guard.resolve("out/home/clips") == home.resolve() / "clips"


def test_an_allowed_folder_may_be_a_link_itself(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    assert PathGuard((tmp_path / "link",)).resolve("clips") == home.resolve() / "clips"


def test_a_loop_of_links_is_answered(home: Path) -> None:
    (home / "a").symlink_to(home / "b")
    (home / "b").symlink_to(home / "a")
    with suppress(UserError):  # Python 3.13 takes it for a path that does not exist
        assert PathGuard((home,)).resolve("a/x").is_relative_to(home.resolve())


def test_several_folders_and_none(home: Path, tmp_path: Path) -> None:
    both = PathGuard((home, tmp_path / "home-of-another"))
    assert both.resolve("../home-of-another/x").name == "x"
    with pytest.raises(UserError, match="none"):
        PathGuard(()).resolve("clips")


@pytest.mark.parametrize(
    "text", ["", "   ", "a\0b", "x" * 5000, "\ud800", "~no-such-person-here/x", "\ud800\0"]
)
def test_what_is_no_path_is_answered(home: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        PathGuard((home,)).resolve(text)
    assert len(str(error.value)) < 600


def test_a_long_name_is_answered_or_inside(home: Path) -> None:
    with suppress(UserError):
        assert PathGuard((home,)).resolve("y" * 300).parent == home.resolve()


def test_what_a_file_names_is_checked_the_same_way(home: Path, tmp_path: Path) -> None:
    guard = PathGuard((home,))
    assert guard.check(home / "clips" / "a.mp4") == home.resolve() / "clips" / "a.mp4"
    with pytest.raises(UserError, match="lies outside"):
        guard.check(tmp_path / "secret.mp4")
    with pytest.raises(UserError):
        guard.check(Path("a\0b"))


@given(st.text(alphabet=st.sampled_from("./~ac\0\\\ud800é"), max_size=30))
def test_whatever_is_typed_stays_inside_or_is_refused(text: str) -> None:
    base = Path(__file__).parent
    try:
        place = PathGuard((base,)).resolve(text)
    except UserError:
        return
    assert os.path.commonpath([place, base.resolve()]) == str(base.resolve())


def test_links_and_places_outside_are_not_opened(state: AppState, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="--allow"):
        state.open("/etc")
    (workspace.edits_dir / "00000.png").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="passwd"):
        state.open(str(workspace.root))


def test_with_nothing_open_a_project_is_to_be_opened(state: AppState) -> None:
    with pytest.raises(UserError, match="open a project first"):
        state.session("")


def test_the_oldest_makes_room_and_a_failed_opening_closes_nothing(
    state: AppState, tmp_path: Path, unmarked: Workspace
) -> None:
    roots = [copied(unmarked, tmp_path / f"ws{n}").root for n in range(MOST_OPEN + 1)]
    opened = [state.open(str(root)) for root in roots[:MOST_OPEN]]
    assert state.open(f"{roots[0]}/../ws0") is opened[0], "two pages share one session"
    state.open(str(roots[1]))
    with pytest.raises(UserError, match="not a prepared workspace"):
        state.open(str(tmp_path))
    for session in opened:
        assert state.session(session.token) is session
    opened.append(state.open(str(roots[-1])))
    with pytest.raises(UserError, match="no longer open"):
        state.session(opened[2].token)
    for session in (*opened[:2], *opened[3:]):
        assert state.session(session.token) is session
    Session(opened[2].workspace).close()  # it was let go


def test_an_open_workspace_is_found_while_others_are_entered(
    state: AppState, workspace: Workspace
) -> None:
    """Pages ask from threads of their own, which may look at any moment."""
    session, failures = state.open(str(workspace.root)), []

    def ask() -> None:
        for _ in range(300_000):
            try:
                assert state.session(session.token) is session
            except (UserError, KeyError) as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asking.start()
        while asking.is_alive():
            assert state.open(str(workspace.root)) is session
    finally:
        sys.setswitchinterval(interval)
        asking.join()
    assert failures == []
