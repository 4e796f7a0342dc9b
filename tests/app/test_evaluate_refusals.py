"""maskora evaluate: what is refused, each in one sentence with a remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskora.app.workspace import Workspace
from maskora.masks.files import read_labels, write_labels
from maskora.video.images import read_image, write_png
from tests.app.conftest import Answer
from tests.evaluation.scenes import FRAMES, HEIGHT, WIDTH, Scene, draw_scene, good
from tests.evaluation.workspaces import write_truth, write_workspace

Run = Callable[..., Answer]
LATER = 8


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene()


@pytest.fixture
def workspace(tmp_path: Path, scene: Scene) -> Workspace:
    """The scene with a good result."""
    return write_workspace(tmp_path / "ws", scene, good(scene))


@pytest.fixture
def two(tmp_path: Path, scene: Scene) -> Workspace:
    """The same with a later edited frame."""
    edits = {0: scene.truth[0], LATER: scene.truth[LATER]}
    return write_workspace(tmp_path / "two", scene, good(scene), edits=edits)


def refused(answer: Answer, *words: str) -> None:
    assert answer.status == 2
    for word in words:
        assert word in answer.err


def test_a_truth_that_lacks_a_frame_is_refused(
    workspace: Workspace, scene: Scene, run: Run, tmp_path: Path
) -> None:
    truth = write_truth(tmp_path / "truth", scene)
    (truth / "background" / "00007.png").unlink()
    refused(run("evaluate", workspace.root, "--truth", truth), "background/00007.png is missing")
    refused(run("evaluate", workspace.root, "--truth", tmp_path / "no"), "no/00000.png is missing")


def test_a_truth_of_another_size_is_refused(
    workspace: Workspace, scene: Scene, run: Run, tmp_path: Path
) -> None:
    truth = write_truth(tmp_path / "truth", scene)
    write_png(truth / "00003.png", np.zeros((50, 60, 3), np.uint8))
    refused(
        run("evaluate", workspace.root, "--truth", truth),
        "00003.png is 60x50: write it in",
        "128x96",
    )
    assert not (workspace.output_dir(None, None) / "report.json").exists()


def test_no_result_is_told_with_what_makes_one(workspace: Workspace, run: Run) -> None:
    (workspace.output_dir(None, None) / "run.json").unlink()
    refused(run("evaluate", workspace.root), "no finished result", "infer.py --config")
    refused(run("evaluate", workspace.root / "edits"), "not a prepared workspace")
    workspace.edit_dir("red").mkdir()
    refused(run("evaluate", workspace.root, "--edit", "red"), "output/red", "--edit red")


def test_masks_that_have_changed_since_are_refused(workspace: Workspace, run: Run) -> None:
    labels = read_labels(workspace.mask(3))
    labels[:4] = 1
    write_labels(workspace.mask(3), labels)
    refused(run("evaluate", workspace.root), "the masks have changed")


def test_an_edit_that_has_changed_since_is_refused(workspace: Workspace, run: Run) -> None:
    path = workspace.edited_frame(None, 0, ".png")
    write_png(path, 255 - read_image(path))
    refused(run("evaluate", workspace.root), f"{path} has changed")


def test_a_clip_that_was_prepared_anew_is_refused(workspace: Workspace, run: Run) -> None:
    workspace.write_source(workspace.read_source().model_copy(update={"start": 3}))
    refused(run("evaluate", workspace.root), "before the workspace was prepared anew")


def test_a_result_of_another_length_is_refused(
    workspace: Workspace, scene: Scene, run: Run, tmp_path: Path
) -> None:
    short = write_workspace(tmp_path / "short", scene, good(scene)[:9])
    file = short.output_dir(None, None) / "edited.mkv"
    (workspace.output_dir(None, None) / "edited.mkv").write_bytes(file.read_bytes())
    refused(run("evaluate", workspace.root), f"9 frames of {WIDTH}x{HEIGHT}", f"has {FRAMES}")


def test_a_folder_without_a_clip_is_refused_before_the_work(
    workspace: Workspace, run: Run, tmp_path: Path
) -> None:
    refused(run("evaluate", workspace.root, "--clip", tmp_path / "none"), "--clip: ")
    refused(run("evaluate", workspace.root, "--quality", tmp_path), "--quality: ", "config.json")


def test_edited_frames_that_have_changed_places_are_refused(two: Workspace, run: Run) -> None:
    first, later = (two.edited_frame(None, n, ".png") for n in (0, LATER))
    first_bytes = first.read_bytes()
    first.write_bytes(later.read_bytes())
    later.write_bytes(first_bytes)
    refused(run("evaluate", two.root), f"{first} has changed since", "infer.py --config")


def test_an_edited_frame_that_is_gone_is_refused(two: Workspace, run: Run) -> None:
    two.edited_frame(None, LATER, ".png").unlink()
    refused(run("evaluate", two.root), f"an edited frame {LATER}", "which is gone", "infer.py")


def test_an_edited_frame_that_is_new_is_refused(workspace: Workspace, run: Run) -> None:
    """Even one of the same content."""
    path = workspace.edited_frame(None, LATER, ".png")
    path.write_bytes(workspace.edited_frame(None, 0, ".png").read_bytes())
    refused(run("evaluate", workspace.root), f"{path} was not there", "infer.py")


def test_edited_frames_may_be_links_and_the_workspace_may_move(
    two: Workspace, run: Run, tmp_path: Path
) -> None:
    """A record names what links lead to."""
    path = two.edited_frame(None, LATER, ".png")
    target = path.rename(tmp_path / "orange.png")
    path.symlink_to(target)
    record = two.output_dir(None, None) / "run.json"
    record.write_text(record.read_text().replace(str(path), str(target)))
    moved = Workspace(two.root.rename(tmp_path / "moved"))
    assert run("evaluate", moved.root).status == 0
    target.write_bytes(moved.edited_frame(None, 0, ".png").read_bytes())
    refused(run("evaluate", moved.root), "00008.png has changed since")


def test_two_edited_frames_may_be_one_file(two: Workspace, run: Run) -> None:
    first, later = (two.edited_frame(None, n, ".png") for n in (0, LATER))
    later.unlink()
    later.symlink_to(first)
    file = two.output_dir(None, None) / "run.json"
    record = json.loads(file.read_text())
    record["inputs"]["edited"][str(LATER)] = record["inputs"]["edited"]["0"]
    file.write_text(json.dumps(record))
    assert run("evaluate", two.root).status == 0
    write_png(first, 255 - read_image(first))
    refused(run("evaluate", two.root), f"{first} has changed since")


def test_a_source_frame_that_has_changed_is_refused(workspace: Workspace, run: Run) -> None:
    path = workspace.source_frame(5)
    picture = read_image(path)
    picture[0, 0] += 1
    write_png(path, picture)
    refused(run("evaluate", workspace.root), "source frames have changed since", "infer.py")


def test_a_record_that_does_not_tell_of_what_it_was_made_is_refused(
    two: Workspace, run: Run
) -> None:
    file = two.output_dir(None, None) / "run.json"
    record = json.loads(file.read_text())
    del record["inputs"]["frames"]
    file.write_text(json.dumps(record))
    refused(run("evaluate", two.root), str(file), "run python infer.py")


@pytest.mark.parametrize("part", ["source", "masks"])
def test_a_damaged_file_of_the_clip_is_refused(workspace: Workspace, run: Run, part: str) -> None:
    path = workspace.root / part / "00004.png"
    for damaged in (path.read_bytes()[:60], b"no picture"):
        path.write_bytes(damaged)
        answer = run("evaluate", workspace.root)
        refused(answer, f"{path} is missing, damaged or of another size", "maskora prepare")
    path.unlink()
    refused(run("evaluate", workspace.root), f"{path} is missing", "maskora prepare")


@pytest.mark.parametrize("part", ["", "masks", "background"])
def test_a_damaged_picture_of_the_truth_is_to_be_written_again(
    workspace: Workspace, scene: Scene, run: Run, tmp_path: Path, part: str
) -> None:
    path = write_truth(tmp_path / "truth", scene) / part / "00004.png"
    for damaged in (path.read_bytes()[:60], b"no picture"):
        path.write_bytes(damaged)
        answer = run("evaluate", workspace.root, "--truth", tmp_path / "truth")
        refused(answer, f"--truth: {path}", "write this picture of the truth again")


def test_a_damaged_result_is_to_be_made_again(workspace: Workspace, run: Run) -> None:
    file = workspace.output_dir(None, None) / "edited.mkv"
    whole = file.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.98):
        file.write_bytes(whole[: round(share * len(whole))])
        refused(run("evaluate", workspace.root), str(file), ": run python infer.py --config")
    hurt = bytearray(whole)
    hurt[len(whole) // 2 : len(whole) // 2 + 500] = bytes(500)
    file.write_bytes(hurt)
    refused(run("evaluate", workspace.root), "is damaged or cut short: run python infer.py")


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_a_folder_where_the_report_goes_is_named(workspace: Workspace, run: Run, name: str) -> None:
    path = workspace.output_dir(None, None) / name
    path.mkdir()
    refused(run("evaluate", workspace.root), f"{path} is a folder", "move it away")


@pytest.mark.parametrize("option", ["--clip", "--quality"])
def test_an_empty_name_is_no_clip(workspace: Workspace, run: Run, option: str) -> None:
    refused(run("evaluate", workspace.root, option, ""), f"{option} names nothing", "leave")
