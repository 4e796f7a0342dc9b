"""The workspace finds what is there, names what is not, and lets one program at a time in."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from maskora.app.edits import find_edits
from maskora.app.workspace import (
    Workspace,
    caption_beside,
    video_sha256,
    working,
    workspace_lock,
)
from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES
from maskora.masks.files import read_mask_folder
from maskora.video.probe import probe

HOLD = """
import sys
from pathlib import Path
from maskora.app.workspace import Workspace, workspace_lock
with workspace_lock(Workspace(Path(sys.argv[1]))):
    print("held", flush=True)
    input()
"""


CUT = {"kind": "cut", "frame": 4, "first": 4, "last": 4}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    space = Workspace(tmp_path / "ws")
    space.edits_dir.mkdir(parents=True)
    return space


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_edits_are_found_by_number_in_any_image_format(workspace: Workspace) -> None:
    first = image(workspace.edits_dir / "00000.webp")
    later = image(workspace.edits_dir / "24.jpg")
    image(workspace.edits_dir / "hat" / "00000.png")
    for left_by_file_manager in (".DS_Store", "._00000.png", "Thumbs.db", "desktop.ini"):
        (workspace.edits_dir / left_by_file_manager).write_bytes(b"\0")
    files = find_edits(workspace, None, 49)
    assert files.first == first
    assert files.keyframes == {24: later}
    assert find_edits(workspace, "hat", 49).keyframes == {}
    with pytest.raises(UserError, match="named edits here: hat"):
        find_edits(workspace, "cap", 49)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_picture_by_any_of_its_names_is_an_edit_and_a_frame_of_a_video(
    workspace: Workspace, suffix: str, tmp_path: Path
) -> None:
    kind = {".jpe": "JPEG", ".jfif": "JPEG"}.get(suffix)
    for path in (workspace.edits_dir / f"00000{suffix}", tmp_path / "clip" / f"0{suffix.upper()}"):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, kind)
    edit = workspace.edits_dir / f"00000{suffix}"
    assert find_edits(workspace, None, 49).images == {0: edit}
    assert workspace.edited_files(None, 0) == [edit]
    assert probe(tmp_path / "clip").frames == 1
    assert len(read_mask_folder(tmp_path / "clip")) == 1
    before = video_sha256(tmp_path / "clip")
    Image.new("RGB", (4, 4)).save(tmp_path / "clip" / f"1{suffix}", kind)
    assert video_sha256(tmp_path / "clip") != before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["hat.png"], "is not a frame"),
        (["00000.heic"], "is not a frame"),
        (["notes.txt"], "is not a frame"),
        (["00000.png/"], "is not a frame"),
        (["00049.png"], "frames 0 to 48"),
        (["00000.png", "0.jpg"], "both frame 0"),
        ([], r"00000\.png is missing: open source/00000\.png"),
    ],
)
def test_a_file_that_is_no_frame_is_never_ignored(
    workspace: Workspace, names: list[str], message: str
) -> None:
    for name in names:
        path = workspace.edits_dir / name
        path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(UserError, match=message):
        _ = find_edits(workspace, None, 49).first


def test_what_programs_leave_beside_a_frame_is_left_out_with_a_note(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    first = image(workspace.edits_dir / "00000.png")
    left = ["00000.kra", "00000.kra~", "00000.png~", "00000.psd", "00000.xcf", "list.json"]
    for name in left:
        (workspace.edits_dir / name).write_bytes(b"x")
    for _ in range(2):
        assert find_edits(workspace, None, 49).images == {0: first}
    assert [record.getMessage() for record in caplog.records] == [
        f"note: {workspace.edits_dir}: no edited frames, left out: {', '.join(left)}"
    ]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "1st", "seed-3", "step-00001", "tensorboard", "", "."]
)
def test_a_name_cannot_leave_the_workspace_or_meet_its_own_files(
    workspace: Workspace, name: str
) -> None:
    for place in (
        lambda: workspace.edit_dir(name),
        lambda: workspace.run_dir("appearance", name),
        lambda: workspace.output_dir(name, None),
    ):
        with pytest.raises(UserError, match=r"edit .*: a name starts with a letter"):
            place()


def test_windows_devices_are_no_edits_there(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspace.edit_dir("con") == workspace.edits_dir / "con"
    monkeypatch.setattr("maskora.app.workspace.WINDOWS", True)
    for name in ("con", "NUL", "Com1"):
        with pytest.raises(UserError, match="Windows has a device of this name"):
            workspace.edit_dir(name)
    assert workspace.edit_dir("console") == workspace.edits_dir / "console"


def test_the_motion_run_is_shared_between_edits(workspace: Workspace) -> None:
    assert workspace.run_dir("motion", "hat") == workspace.run_dir("motion", None)
    assert workspace.run_dir("appearance", "hat") != workspace.run_dir("appearance", None)
    assert workspace.output_dir("hat", 3) == workspace.root / "output" / "hat" / "seed-3"


def test_a_record_that_is_missing_or_damaged_is_named(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="not a prepared workspace"):
        workspace.read_source()
    workspace.source_dir.mkdir(parents=True)
    for content in (b"{}", b"\xff\xfe", b'{"fps": "1/0"}'):
        workspace.source_record.write_bytes(content)
        with pytest.raises(UserError, match=r"source\.json is damaged"):
            workspace.read_source()


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 10**9}, {"frames": 10**400}, {"start": 10**400}, {"size": [10**9, 96]},
        {"fps": "9" * 400}, {"fps": "9" * 5000}, {"fps": "16/000"},
        {"region": [0, -(10**30), 1, 1]}, {"shots": [CUT | {"frame": 0}]},
        {"shots": [CUT | {"frame": 9}]}, {"shots": [CUT, CUT]}, {"shots": [CUT | {"kind": "jump"}]},
    ],
)  # fmt: skip
def test_numbers_that_no_clip_has_are_damage(
    workspace: Workspace, change: dict[str, object]
) -> None:
    good = {
        "origin": "/clip.mp4", "start": 0, "every": 1, "frames": 9, "fps": "30000/1001",
        "original_size": [320, 192], "size": [160, 96], "cell": 8, "fit": "crop",
        "region": [0, -4, 320, 192],
    }  # fmt: skip
    workspace.source_dir.mkdir(parents=True)
    workspace.source_record.write_text(json.dumps(good))
    assert float(workspace.read_source().rate) == pytest.approx(29.97, abs=0.01)
    assert workspace.read_source().shots == ()
    workspace.source_record.write_text(json.dumps(good | {"shots": [CUT]}))
    assert workspace.read_source().shots[0].frame == 4
    workspace.source_record.write_text(json.dumps(good | change))
    with pytest.raises(UserError, match=r"source\.json is damaged"):
        workspace.read_source()


def test_a_caption_beside_an_image(tmp_path: Path) -> None:
    path, text = tmp_path / "00000.png", tmp_path / "00000.txt"
    assert caption_beside(path) is None
    text.write_text("  a man\n in red \n")
    assert caption_beside(path) == "a man in red"
    text.write_text("a man", encoding="utf-8-sig")  # as Notepad writes it
    assert caption_beside(path) == "a man"
    text.write_text("a man", encoding="utf-16")
    with pytest.raises(UserError, match=r"00000\.txt is no text in UTF-8"):
        caption_beside(path)


def holder(root: Path) -> subprocess.Popen[bytes]:
    """Another program that holds a workspace until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline().strip() == b"held"
    return process


def test_another_program_is_kept_out_until_it_is_gone(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        for _ in range(2):  # as often as one asks
            with (
                pytest.raises(
                    UserError, match=rf"another maskora \(process {other.pid}: .*\): close"
                ),
                workspace_lock(Workspace(tmp_path)),
            ):
                pass
        other.kill()
    with workspace_lock(Workspace(tmp_path)):
        holders = Workspace(tmp_path).lock_holder, Workspace(tmp_path).work_holder
        assert [path.read_text().split("\n")[0] for path in holders] == [str(os.getpid())] * 2


def test_a_holder_that_has_not_written_its_number_yet(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace_lock(workspace):
        workspace.lock_holder.unlink()
        for number in ("", "x\n", "12"):
            taken = pytest.raises(UserError, match=r"in another maskora( \(process 12\))?: close")
            with taken, workspace_lock(workspace):
                pass
            workspace.lock_holder.write_text(number)


def test_a_lock_taken_in_one_thread_is_given_back_in_another(tmp_path: Path) -> None:
    """The window opens a workspace in one thread and closes it in another."""
    held = workspace_lock(Workspace(tmp_path))
    held.__enter__()
    thread = threading.Thread(target=held.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with workspace_lock(Workspace(tmp_path)):
        pass


def refusal_of_a_thread(root: Path) -> str:
    """Why a new thread may not work in a workspace; empty where it may."""
    refusals = []

    def work() -> None:
        try:
            with working(Workspace(root)):
                pass
        except UserError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return "".join(refusals)


def test_another_thread_waits_for_the_one_that_works(tmp_path: Path) -> None:
    """As when masks are saved on one page of the window, and work is started on another."""
    workspace, done = Workspace(tmp_path), list[str]()

    def work() -> None:
        with working(workspace):
            done.append("other")

    with working(workspace):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.2)
        done.append("one")
    thread.join()
    assert done == ["one", "other"]


def test_another_thread_is_refused_where_work_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskora.app.workspace.PATIENCE", 0.1)
    with working(Workspace(tmp_path)):
        messages = [refusal_of_a_thread(tmp_path) for _ in range(2)]  # as often as it asks
        with working(Workspace(Path(os.path.relpath(tmp_path)))):
            pass  # by another name, too, the same thread may take it again
    for message in messages:
        assert message.startswith(f"another maskora works in {tmp_path} (process {os.getpid()}: ")
    assert refusal_of_a_thread(tmp_path) == ""


def test_a_workspace_is_settled_once_before_work_begins(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    begun = tmp_path / ".exchange-abcdefgh"

    def begin() -> None:
        for part in ("new", "gone", "old"):
            (begun / part).mkdir(parents=True)

    begin()
    with working(workspace):
        assert not begun.exists()
        begin()
        with working(workspace):
            assert begun.exists(), "it may be this program's own"
    with working(workspace):
        assert not begun.exists()


def test_a_refused_thread_is_in_no_other_threads_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskora.app.workspace.PATIENCE", 0.0)
    with holder(tmp_path) as other:
        for _ in range(2):
            assert f"(process {other.pid}: " in refusal_of_a_thread(tmp_path)
        other.kill()
    assert refusal_of_a_thread(tmp_path) == ""
