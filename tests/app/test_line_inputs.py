"""What an edit in a line is made from: what a run puts into a workspace itself does not count."""

from pathlib import Path

from maskora.app.edit_line import parse_edit_line
from maskora.app.first_frame import make_first_frame
from maskora.app.line_inputs import inputs_digest, workspace_contents
from maskora.app.masking import load_masks, stored_silhouettes
from maskora.app.workspace import Workspace
from maskora.config import Config
from tests.app.child import write_jobs
from tests.app.conftest import Prepared, repaint


def contents(root: Path, *words: str) -> list[str]:
    line = parse_edit_line(["out.mp4", "--workspace", str(root), *words])
    return list(workspace_contents(line))


def test_a_first_frame_counts_if_a_person_made_it(prepared: Prepared) -> None:
    root = prepared()
    first = root / "edits" / "00000.png"
    painted = contents(root)
    first.unlink()
    before = contents(root)
    workspace = Workspace(root)
    make_first_frame(workspace, None, stored_silhouettes(workspace, workspace.read_source()))
    assert first.is_file()
    assert contents(root) == before != painted
    repaint(root, 0, (60, 40, 20, 20))
    assert contents(root) not in (before, painted)


def test_masks_count_as_they_were_given_or_painted(prepared: Prepared) -> None:
    root = prepared()
    workspace = Workspace(root)
    before, final = contents(root), workspace.mask(3).read_bytes()
    wider = Config().mask.model_copy(update={"margin": 1.0})
    load_masks(workspace, wider, workspace.read_source())
    assert workspace.mask(3).read_bytes() != final
    assert contents(root) == before
    workspace.mask(3).write_bytes(final)  # by hand
    assert contents(root) != before


def test_an_edit_counts_for_its_frame(prepared: Prepared) -> None:
    root = prepared()
    repaint(root, 4)
    before = contents(root)
    placed = contents(root, "--keyframe", f"4={root / 'edits' / '00004.png'}")
    assert placed == [one for one in before if not one.startswith("edits/00004")]
    assert len(placed) == len(before) - 1
    (root / "edits" / "00004.png").rename(root / "edits" / "00005.png")
    assert contents(root) != before


def test_where_copies_are_kept_does_not_count(tmp_path: Path) -> None:
    write_jobs(tmp_path, 1)
    words = [str(tmp_path / "clip.mp4"), "1,2,3,4", str(tmp_path / "edited.png"), "out.mp4"]
    for scratch in (["--scratch", "here"], ["--scratch=here"]):
        assert inputs_digest([*words, *scratch, "--set=a.b=c"]) == inputs_digest(
            [*words, "--set=a.b=c"]
        )
    captioned = [*words, "--caption", "--scratch", "--edited-caption"]
    assert inputs_digest([*captioned, "a"]) != inputs_digest([*captioned, "b"])
    assert inputs_digest([*words, "--frames", "9"]) != inputs_digest(words)
