"""Exchanges of files: all or nothing, whenever they fail or the program is killed."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maskora.app.exchange import exchange, settle
from maskora.app.workspace import Workspace, working
from maskora.files import scratch_prefix, write_text
from tests.system import posix_only

EARLIER = {
    "edit.toml": "old", "source/a.png": "old", "masks/a.png": "old", "masks/b.png": "old",
    "report.html": "old", "edits/a.png": "mine",
}  # fmt: skip
LATER = {
    "edit.toml": "new", "source/a.png": "new", "masks/a.png": "new", "clip.mkv": "new",
    "edits/a.png": "mine",
}  # fmt: skip
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.app.test_exchange import fill
left = int(sys.argv[2])
def count(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
from maskora.app.exchange import exchange
sys.addaudithook(count)
with exchange(Path(sys.argv[1]), dropping=["report.html", "clip.mkv"]) as new:
    fill(new)
print("done")
"""


def fill(new: Path) -> None:
    write(new, {name: text for name, text in LATER.items() if not name.startswith("edits")})


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(root: Path) -> dict[str, str]:
    """Every file of a folder."""
    return {
        str(path.relative_to(root).as_posix()): path.read_text()
        for path in root.rglob("*")
        if path.is_file()
    }


def settled(root: Path) -> None:
    settle(Workspace(root).written_folders())


def visible(root: Path) -> dict[str, str]:
    return {name: text for name, text in read(root).items() if not name.startswith(".")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "ws", EARLIER)
    return tmp_path / "ws"


@pytest.fixture(scope="session")
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def scratch(kind: str, process: int) -> str:
    """The name of what a process is making."""
    return scratch_prefix(kind).replace(f"-{os.getpid()}-", f"-{process}-") + "abcdefgh"


def test_all_is_exchanged_and_nothing_else(root: Path) -> None:
    with exchange(root, dropping=["report.html", "clip.mkv"]) as new:
        fill(new)
        assert read(new.parents[1]).items() >= EARLIER.items(), "while it is filled, all stays"
    assert read(root) == LATER


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_move_that_fails_leaves_all_as_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """On Windows a player may have a clip open."""
    real, left = Path.replace, [failing]

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise PermissionError(13, "open in a player", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError), exchange(root, dropping=["report.html"]) as new:
        fill(new)
    assert read(root) == EARLIER
    assert not list(root.glob(".*"))


def test_what_cannot_be_removed_at_the_end_is_no_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All is exchanged then; the next command tries again."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "open in a player", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with exchange(root, dropping=["report.html"]) as new:
        fill(new)
    assert visible(root) == LATER
    (note,) = [record.getMessage() for record in caplog.records]
    assert "could not be removed (open in a player): the next command tries again" in note
    monkeypatch.undo()
    (left,) = root.glob(".*")
    with exchange(root) as new:
        write(new, {"edit.toml": "newer"})
    assert visible(root) == {**LATER, "edit.toml": "newer"}
    assert list(root.glob(".*")) == [left], "its process lives"


def test_an_exchange_that_failed_is_not_finished_later(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where its removal stops halfway."""
    real, left = Path.replace, [6]

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise PermissionError(13, "open in a player", str(target))
        return real(self, target)

    def remove_some(path: Path) -> None:
        (path / "new" / "edit.toml").unlink()
        raise PermissionError(13, "open in a player", str(path))

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(shutil, "rmtree", remove_some)
    with pytest.raises(PermissionError), exchange(root, dropping=["report.html"]) as new:
        fill(new)
    monkeypatch.undo()
    settled(root)
    assert visible(root) == EARLIER


@posix_only  # Windows flushes no folders
def test_the_disk_has_every_file_once_before_anything_is_exchanged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, whole = list[int](), list[int]()
    real = Path.replace, os.fsync

    def replace(self: Path, target: Path) -> Path:
        if target.name.startswith(".exchange-"):
            whole.extend(path.stat().st_ino for path in (self, *self.rglob("*")))
            assert sorted(flushed) == sorted(whole)
        return real[0](self, target)

    def fsync(handle: int) -> None:
        flushed.append(os.fstat(handle).st_ino)
        real[1](handle)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "fsync", fsync)
    with exchange(root, dropping=["report.html"]) as new:
        for name in ("masks/a.png", "masks/raw/a.png", "edit.toml"):
            write_text(new / name, "new")
    assert root.stat().st_ino in flushed[len(whole) :]


def test_a_disk_that_fails_before_anything_is_exchanged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output") as failed, exchange(root) as new:  # noqa: PT012
        write_text(new / "edit.toml", "new")
        monkeypatch.setattr(os, "fsync", fsync)
    assert Path(failed.value.filename).is_relative_to(new.parent)
    assert read(root) == EARLIER
    assert not list(root.glob(".*"))


@posix_only
@pytest.mark.slow
def test_killed_at_any_moment_it_is_finished_or_undone(root: Path, tmp_path: Path) -> None:
    """The next program that works there settles it; edit.toml is there at every moment."""
    endings, home = [], Path(__file__).parents[2]
    for moment in range(1, 60):
        place = Path(shutil.copytree(root, tmp_path / f"{moment}"))
        words = [sys.executable, "-c", KILLED, str(place), str(moment), str(home)]
        ended = subprocess.run(words, capture_output=True, check=False)
        if ended.stdout:
            break
        assert ended.returncode == -9, ended.stderr
        assert (place / "edit.toml").read_text() in ("old", "new")
        with working(Workspace(place)):
            pass
        (place / ".work-lock").unlink()
        assert read(place) in (EARLIER, LATER)
        endings.append(read(place) == LATER)
    assert endings == sorted(endings), "first the old, from some moment on the new"
    assert set(endings) == {False, True}


def test_an_exchange_that_was_begun_is_finished(root: Path) -> None:
    """Here it was killed when masks/ had just made room."""
    ready = root / ".exchange-x"
    for part in ("new", "gone", "old"):
        (ready / part).mkdir(parents=True)
    fill(ready / "new")
    (ready / "gone" / "report.html").touch()
    (root / "masks").rename(ready / "old" / "was-masks")
    settled(root)
    assert read(root) == LATER


def test_what_killed_programs_have_left_is_removed_and_nothing_else(root: Path, ended: int) -> None:
    part, building = scratch("part", ended), scratch("building", ended)
    dead = [
        f"runs/motion/step-00001/{part}.json", f"cache/{part}", f"{building}/new/masks/a.png",
        f"output/hat/seed-2/{building}/new/run.json",
    ]  # fmt: skip
    alive = [
        f"edits/{scratch('part', os.getpid())}.png",
        f"{scratch('building', os.getppid())}/new/masks/a.png",
        f"output/{scratch('building', os.getpid())}/new/run.json",
    ]
    elsewhere = building.replace(building.split("-")[1], "01234567")  # another machine
    others = [
        f"{elsewhere}/new/a.png", ".building-x/a.png", ".masks-mine/a.png", "cache/.part-time",
        f"footage/{part}", f"footage/{building}/a.mp4",
    ]  # fmt: skip
    write(root, dict.fromkeys([*dead, *alive, *others], ""))
    settled(root)
    assert read(root) == {**EARLIER, **dict.fromkeys([*alive, *others], "")}


@pytest.mark.parametrize("sign", ["edit.toml", "source/source.json", ".work-lock"])
@pytest.mark.parametrize("place", ["inner", "output", "output/inner", "edits/hat", "runs/motion/x"])
def test_a_workspace_inside_another_is_let_be(
    root: Path, ended: int, place: str, sign: str
) -> None:
    """Whoever works in it holds its lock, and no other."""
    inner = {
        f"{place}/{name}": "inner"
        for name in (
            sign, ".exchange-abcdefgh/new/masks/a.png", ".exchange-abcdefgh/gone/report.html",
            ".exchange-abcdefgh/old/was-masks/a.png", f"{scratch('building', ended)}/new/a.png",
        )
    }  # fmt: skip
    write(root, inner)
    settled(root)
    assert read(root) == {**EARLIER, **inner}


def test_an_exchange_of_a_result_is_finished_wherever_it_was_put(root: Path) -> None:
    """A result that was moved into a folder of its own is repeated there."""
    place = "output/kept/of june"
    begun = dict.fromkeys([f"{place}/.exchange-abcdefgh/{p}" for p in ("gone/b", "old/was-a")], "")
    write(root, {**begun, f"{place}/b": "old", f"{place}/.exchange-abcdefgh/new/a": "new"})
    settled(root)
    assert read(root) == {**EARLIER, f"{place}/a": "new"}


@posix_only
@pytest.mark.parametrize("part", ["", "new", "old", "gone"])
def test_a_link_leads_no_exchange_outside(root: Path, tmp_path: Path, part: str) -> None:
    """A workspace may be a stranger's."""
    outside = tmp_path / "outside"
    write(outside / "new", {"holiday.jpg": "mine"})
    (outside / "gone").mkdir()
    (outside / "old").mkdir()
    if part:
        for other in {"new", "old", "gone"} - {part}:
            (root / ".exchange-x" / other).mkdir(parents=True)
        (root / ".exchange-x" / part).symlink_to(outside / part)
        write(root, {".exchange-x/new/edit.toml": "theirs"} if part != "new" else {})
    else:
        (root / ".exchange-x").symlink_to(outside)
    (root / ".building-x").symlink_to(outside)
    settled(root)
    assert read(outside) == {"new/holiday.jpg": "mine"}
    assert (root / "edit.toml").read_text() == "old"
