"""Recent projects: the workspaces that may be opened, the newest first, with what is next."""

import os
from pathlib import Path

from gui_mask import words
from gui_mask.recent import recent_projects
from maskora.app.workspace import Workspace
from maskora.config import set_values
from maskora.video.images import read_image, write_png
from tests.gui_mask.workspaces import copied


def age(workspace: Workspace, time: float) -> None:
    """Nothing was done in a workspace since then."""
    for path in (*workspace.root.rglob("*"), workspace.root):
        os.utime(path, (time, time), follow_symlinks=False)


def test_projects_are_found_and_the_newest_is_first(
    tmp_path: Path, unmarked: Workspace, boxed: Workspace
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    old, new = copied(unmarked, home / "old"), copied(boxed, home / "new")
    age(old, 1_000_000)
    age(new, 2_000_000)
    (home / "no project").mkdir()
    (home / "a link").symlink_to(old.root)
    broken = copied(unmarked, home / "broken")
    broken.source_frame(0).unlink()
    found = recent_projects([home, tmp_path / "gone"])
    assert [(p.root, p.next) for p in found] == [
        (new.root.resolve(), words.NO_EDIT), (old.root.resolve(), words.NO_MASK),
    ]  # fmt: skip
    assert found[0].picture_HWC.shape == (96, 160, 3)
    assert [p.root for p in recent_projects([home], most=1)] == [new.root.resolve()]
    assert [p.root for p in recent_projects([old.root])] == [old.root.resolve()], "named itself"


def test_what_is_next_follows_what_was_done(tmp_path: Path, boxed: Workspace) -> None:
    workspace = copied(boxed, tmp_path / "ws")

    def following() -> str:
        (project,) = recent_projects([tmp_path])
        return project.next

    assert following() == words.NO_EDIT
    set_values(workspace.config, {"motion.task": "remove"})
    assert following() == words.NO_RESULT, "a removal makes its first frame itself"
    set_values(workspace.config, {"motion.task": "change"})
    edited = workspace.edited_frame("hat", 0, ".png")
    edited.parent.mkdir()
    write_png(edited, read_image(workspace.source_frame(0)))
    assert following() == words.NO_RESULT
    folder = workspace.output_dir("hat", None)
    folder.mkdir(parents=True)
    (folder / "edited.mp4").write_bytes(b"")
    assert following() == words.NO_RESULT, "run.json is written last"
    (folder / "run.json").write_text("{}")
    assert following() == words.DONE
