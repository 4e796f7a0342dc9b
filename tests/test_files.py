"""File habits: on a system that keeps open files in place, too."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import platformdirs
import pytest

from maskora import files
from maskora.files import (
    cache_home,
    check_free,
    lies_in,
    naming,
    patiently,
    remove,
    remove_abandoned,
    replacing,
    scratch_folder,
    write_text,
)
from tests.system import posix_only


def held(windows: int = 32) -> PermissionError:
    """What Windows says of a file that is open."""
    error = PermissionError(errno.EACCES, "the process cannot access the file")
    error.winerror = windows  # type: ignore[attr-defined]
    return error


def failing(times: int, error: OSError) -> Callable[[], str]:
    """Something that works after it has failed so often."""
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


@pytest.mark.parametrize("windows", files.HELD)
def test_what_is_open_elsewhere_for_a_moment_is_waited_for(windows: int) -> None:
    assert patiently(failing(3, held(windows)), Path("file")) == "done"


def test_what_stays_open_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    with pytest.raises(PermissionError, match="open in another program") as refused:
        patiently(failing(1000, held()), Path("clip.mp4"))
    assert (refused.value.errno, refused.value.filename) == (errno.EACCES, "clip.mp4")


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "x"), OSError(errno.ENOSPC, "x")])
def test_what_is_refused_for_another_reason_is_not_tried_again(error: OSError) -> None:
    begun = time.monotonic()
    with pytest.raises(OSError, match="x"):
        patiently(failing(1, error), Path("file"))
    assert time.monotonic() - begun < 0.04


def test_a_reader_that_lets_go_does_not_stop_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the page looks at runs/job.json while it is replaced."""
    path, real, refusals = tmp_path / "job.json", Path.replace, [held(), held(5)]

    def replace(self: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_text(path, "new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])
    assert not refusals


def test_removing_takes_files_folders_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "d").touch()
    for name in ("a", "d", "e"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_checking_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edited.mp4"
    check_free(path)
    path.write_text("content")
    check_free(path)
    assert path.read_text() == "content"
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(held()))
    with pytest.raises(PermissionError, match=r"open in another program"):
        check_free(path)


def test_lying_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert lies_in(tmp_path / "a" / "b", tmp_path / "a")
    assert lies_in(tmp_path / "a", tmp_path / "a")
    assert lies_in(tmp_path / "a" / "new" / "file", tmp_path / "a")
    assert not lies_in(tmp_path / "a", tmp_path / "a" / "b")
    assert not lies_in(tmp_path / "ab", tmp_path / "a")
    assert not lies_in(tmp_path / "a", tmp_path / "nowhere")


def test_lying_in_a_folder_in_another_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that does not tell a from A; here, `resolve` follows no link."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "A").symlink_to(tmp_path / "a")
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: self.absolute())
    assert lies_in(tmp_path / "A" / "file", tmp_path / "a")
    assert not lies_in(tmp_path / "file", tmp_path / "a")


@posix_only
@pytest.mark.parametrize("setting", ["", "relative/folder", None])
def test_the_cache_lies_where_it_has_always_been(
    setting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if setting is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
    expected = ".cache" if sys.platform == "linux" else "Library/Caches"
    assert cache_home() == tmp_path / expected / "maskora"


def test_the_cache_lies_where_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "maskora"


def test_the_cache_on_windows_and_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """What platformdirs says for them, asked here for both."""
    from platformdirs import macos, windows

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(windows, "get_win_folder", lambda _: "/local")
    for system, end in ((windows.Windows, "/local/maskora/Cache"), (macos.MacOS, "Caches/maskora")):
        monkeypatch.setattr(platformdirs, "PlatformDirs", system)
        assert cache_home().as_posix().endswith(end)


def test_text_has_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "a\nä\n")
    assert (tmp_path / "text").read_bytes() == b"a\n\xc3\xa4\n"


@pytest.mark.skipif(os.name != "nt", reason="of what only Windows does")
def test_a_file_open_in_another_program(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = "import sys, time; f = open(sys.argv[1]); print(flush=True); time.sleep(1)"
    reader = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    reader.stdout.readline()
    write_text(path, "new")
    assert path.read_text() == "new"
    reader.wait()


def test_a_file_has_its_name_only_once_the_disk_has_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "file", list[str]()
    path.write_text("old")
    real = Path.replace, os.fsync

    def replace(self: Path, target: Path) -> Path:
        done.append(f"{self.read_text()} is named")
        return real[0](self, target)

    def fsync(handle: int) -> None:
        is_folder = os.fstat(handle).st_ino == tmp_path.stat().st_ino
        done.append("folder" if is_folder else f"{os.fstat(handle).st_size} bytes")
        real[1](handle)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "newer")
    folder = [] if os.name == "nt" else ["folder"]
    assert done == ["5 bytes", "newer is named", *folder]


@posix_only
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_disk_that_cannot_flush_is_no_error_but_one_that_fails_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "file"
    if number != errno.EIO:
        write_text(path, "new")
        assert path.read_text() == "new"
        return
    with pytest.raises(OSError, match="Input/output") as failed:
        write_text(path, "new")
    assert failed.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", [(), ("scratch",), ("source", None, "scratch")])
def test_a_full_disk_is_told_with_the_name_of_the_file(
    tmp_path: Path, named: tuple[str | None, ...]
) -> None:
    """Writing names no file, opening the scratch, copying the source."""

    def write() -> None:
        with replacing(tmp_path / "a.mp4") as scratch:
            names = [str(scratch) if name == "scratch" else name for name in named]
            raise OSError(errno.ENOSPC, "No space left on device", *names)

    with pytest.raises(OSError, match="No space") as full:
        write()
    assert (full.value.filename, full.value.filename2) == (str(tmp_path / "a.mp4"), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("context", [replacing, naming])
def test_an_error_about_another_file_keeps_its_name(
    tmp_path: Path, context: Callable[[Path], AbstractContextManager[object]]
) -> None:
    with pytest.raises(FileNotFoundError) as missing, context(tmp_path / "a.mp4"):
        (tmp_path / "b.mp4").read_bytes()
    assert missing.value.filename == str(tmp_path / "b.mp4")


KILLED = """
import os, sys
from pathlib import Path
from maskora.files import replacing, scratch_folder
with replacing(Path(sys.argv[1]) / "a.png") as one, scratch_folder(Path(sys.argv[1]), "masks"):
    one.write_text("half")
    os._exit(9)
"""


def test_the_next_writer_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == [".masks", ".part"]
    with replacing(tmp_path / "living"), scratch_folder(tmp_path, "living"):
        write_text(tmp_path / "b.png", "b")
        assert len(list(tmp_path.glob(".*"))) == 2, "those of who still writes stay"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "living"]


def test_many_files_are_written_in_a_time_that_grows_as_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is looked over once, and not for every file again."""
    looked, real = list[Path](), files.remove_abandoned
    monkeypatch.setattr(
        files, "remove_abandoned", lambda folder: (looked.append(folder), real(folder))
    )
    for number in range(5):
        write_text(tmp_path / "a" / f"{number}.txt", "")
        write_text(tmp_path / "b" / f"{number}.txt", "")
    assert looked == [tmp_path / "a", tmp_path / "b"]


@posix_only
def test_a_link_is_no_scratch(tmp_path: Path) -> None:
    """Whoever made it might have files elsewhere removed."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = f".masks-{files._place()}-{dead.pid}-a"
    assert files.is_abandoned(name)
    (tmp_path / name).symlink_to(tmp_path)
    remove_abandoned(tmp_path)
    assert (tmp_path / name).is_symlink()
