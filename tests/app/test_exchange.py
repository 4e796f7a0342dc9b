"""Exchanges of files: all or nothing, whenever they fail or the program is killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maskora.app.exchange import exchange, settle
from maskora.app.workspace import Workspace, working
from maskora.files import replacing
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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "ws", EARLIER)
    return tmp_path / "ws"


def test_all_is_exchanged_and_nothing_else(root: Path) -> None:
    with exchange(root, dropping=["report.html", "clip.mkv"]) as new:
        fill(new)
        assert read(new.parents[1]).items() >= EARLIER.items(), "while it is filled, all stays"
    assert read(root) == LATER


@pytest.mark.parametrize("failing", range(1, 8))
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
    settle(root)
    assert read(root) == LATER


def test_what_killed_programs_have_left_is_removed_and_nothing_else(root: Path) -> None:
    files = ["runs/motion/step-00001/a.json", "cache/a.json"]
    for name in files:
        code = f"from maskora.files import *\nwith replacing(Path({name!r})):\n    os._exit(1)"
        subprocess.run([sys.executable, "-c", code], cwd=root, check=False, env=os.environ)
    left = [".building-x/new/masks/a.png", ".masks-x/a.png", ".prepare-x/workspace/a.png"]
    write(root, dict.fromkeys([*left, "cache/.part-abcdefgh.png"], ""))
    before = len(read(root))
    with replacing(root / "edits" / "b.png") as alive:
        settle(root)
        assert read(root) == {**EARLIER, f"edits/{alive.name}": ""}
    assert before == len(EARLIER) + len(left) + len(files) + 1


def test_a_version_befores_only_masks_are_not_removed(root: Path) -> None:
    (root / "masks").rename(root / ".masks-x")
    settle(root)
    assert (root / ".masks-x" / "a.png").exists()


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
    settle(root)
    assert read(outside) == {"new/holiday.jpg": "mine"}
    assert (root / "edit.toml").read_text() == "old"
