"""Digests of large files are remembered, until one of them changes; the store may be anything."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from maskora.app import remembered
from maskora.app.remembered import known_sha256, recall, remember
from maskora.app.workspace import video_sha256
from maskora.files import sha256_file


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digests are kept; every file is large, and was written long ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remembered, "LARGE", 0)
    monkeypatch.setattr(remembered, "RECENT", 0)
    return tmp_path / "home" / "maskora" / "digests.json"


@pytest.fixture
def read(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    names = list[str]()

    def look(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(remembered, "sha256_file", look)
    return names


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a.mp4")
    return path


def test_a_video_is_read_once_and_again_when_it_changes(read: list[str], video: Path) -> None:
    first = [video_sha256(video), video_sha256(video)]
    assert read == ["a.mp4"]
    assert first == [sha256_file(video)] * 2
    stamp = video.stat()
    video.write_bytes(b"b.mp4")
    os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert video_sha256(video) == sha256_file(video) != first[0]


def test_a_folder_is_read_once_and_again_when_an_image_changes(
    read: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.png", ".DS_Store"):
        (folder / name).write_bytes(name.encode())
    alone = video_sha256(folder)
    assert video_sha256(folder / "1.png") != alone, "the picture is not the folder"
    (folder / "2.png").write_bytes(b"2")
    read.clear()
    both = video_sha256(folder)
    (folder / ".DS_Store").write_bytes(b"")
    assert video_sha256(folder) == both != alone
    assert read == ["1.png", "2.png"]
    (folder / "2.png").write_bytes(b"3")
    assert video_sha256(folder) != both


def test_a_folder_without_images_has_a_content_like_any_other(tmp_path: Path) -> None:
    assert video_sha256(tmp_path) == hashlib.sha256().hexdigest()


def test_what_is_small_or_was_just_written_is_read_each_time(
    read: list[str], store: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(remembered, "RECENT", 3_000_000_000)
        assert [known_sha256(video) for _ in range(2)] == [sha256_file(video)] * 2
    with monkeypatch.context() as changed:
        changed.setattr(remembered, "LARGE", 6)
        assert [known_sha256(video) for _ in range(2)] == [sha256_file(video)] * 2
    assert read == ["a.mp4"] * 4
    assert not store.exists()


def test_what_changes_while_it_is_read_is_not_remembered(
    store: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(path: Path) -> str:
        found = sha256_file(path)
        path.write_bytes(b"another content")
        return found

    monkeypatch.setattr(remembered, "sha256_file", look)
    known_sha256(video)
    assert not store.exists()


def forge(store: Path) -> None:
    """Another digest in the place of the right one."""
    content = json.loads(store.read_text())
    store.write_text(json.dumps({key: "0" * 64 + value[64:] for key, value in content.items()}))


def make_a_folder(store: Path) -> None:
    store.unlink()
    store.mkdir()


def writes(text: str) -> Callable[[Path], object]:
    return lambda store: store.write_bytes(text.encode("latin-1"))


@pytest.mark.parametrize(
    "damage",
    [forge, make_a_folder, Path.unlink,
     *map(writes, ["", "[]", "[" * 5000, "\xff", '{"a": {"b": []}, "c": null}'])],
)  # fmt: skip
def test_a_damaged_store_is_no_store(
    read: list[str], store: Path, video: Path, damage: Callable[[Path], object]
) -> None:
    right = known_sha256(video)
    damage(store)
    assert known_sha256(video) == right
    assert read == ["a.mp4"] * 2
    assert known_sha256(video) == right
    assert store.is_dir() or read == ["a.mp4"] * 2, "it is remembered again"


def test_a_store_that_cannot_be_written_is_told_and_no_failure(
    read: list[str], store: Path, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.parent.parent.write_text("a file, where the cache should be")
    assert [known_sha256(video) for _ in range(2)] == [sha256_file(video)] * 2
    assert read == ["a.mp4"] * 2
    assert f"nothing is kept in {store}" in caplog.text


def test_the_oldest_entries_go(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 2)
    for key in "abac":
        remember("digests", key, f"of {key}")
    assert list(recall("digests")) == ["a", "c"]
