"""maskora evaluate: the command, on rendered workspaces and on a real run of the tiny model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskora.app.workspace import Source, Workspace
from maskora.files import digest, sha256_file
from maskora.masks.files import read_labels, write_labels
from maskora.video.images import read_image, write_png
from maskora.video.write import write_lossless, write_mp4
from tests.app.conftest import Answer, ok, refused
from tests.evaluation.scenes import BAD, FRAMES, HEIGHT, SCENE, WIDTH, good
from tests.evaluation.tiny_clip import write_tiny_clip, write_tiny_clip_vision

Run = Callable[..., Answer]
LATER = 8


def write_workspace(root: Path, result: np.ndarray, edits: dict[int, np.ndarray]) -> Workspace:
    """The scene and its edited frames as prepare, a person and infer would have left it."""
    workspace = Workspace(root)
    source = Source(
        origin="rendered", start=0, every=1, frames=FRAMES, fps="16",
        original_size=(WIDTH, HEIGHT), size=(WIDTH, HEIGHT), cell=16, fit="crop",
        region=(0, 0, WIDTH, HEIGHT),
    )  # fmt: skip
    workspace.write_source(source)
    labels = SCENE.box.astype(np.uint8)
    for number in range(FRAMES):
        write_png(workspace.source_frame(number), SCENE.source[number])
        write_labels(workspace.mask(number), labels[number])
    edited: dict[str, dict[str, str]] = {}
    for number, picture in edits.items():
        path = workspace.edited_frame(None, number, ".png")
        write_png(path, picture)
        edited[str(number)] = {"path": str(path), "sha256": sha256_file(path)}
    output = workspace.output_dir(None, None)
    write_lossless(output / "edited.mkv", iter(result), Fraction(16))
    write_mp4(output / "edited.mp4", iter(result), Fraction(16))
    record = {
        "seed": 0,
        "prompt": "TOKEN an orange disc",
        "config": {
            "prompt": {"token": "TOKEN"},
            "appearance": {"spill": "source"},
            "inference": {"lock": "pixel"},
        },
        "inputs": {
            "source": source.model_dump(mode="json"),
            "frames": digest(SCENE.source.tobytes()),
            "masks": digest(labels.tobytes()),
            "edited": edited,
        },
    }
    (output / "run.json").write_text(json.dumps(record))
    return workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ws/: a workspace with a good result and two edited frames; truth/."""
    root = tmp_path_factory.mktemp("made")
    write_workspace(root / "ws", good(), {n: SCENE.truth[n] for n in (0, LATER)})
    for number in range(FRAMES):
        name = f"{number:05d}.png"
        write_png(root / "truth" / name, SCENE.truth[number])
        write_png(root / "truth" / "background" / name, SCENE.background[number])
        write_labels(root / "truth" / "masks" / name, SCENE.object[number].astype(np.uint8))
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(made / "ws", tmp_path / "ws"))


@pytest.fixture
def truth(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "truth", tmp_path / "truth"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "clip"
    write_tiny_clip(folder)
    return folder


def report(workspace: Workspace) -> dict[str, Any]:
    return json.loads((workspace.output_dir(None, None) / "report.json").read_text())


@contextmanager
def changed_record(workspace: Workspace) -> Iterator[dict[str, Any]]:
    """The result's run.json, written again as it is left."""
    file = workspace.output_dir(None, None) / "run.json"
    record = json.loads(file.read_text())
    yield record
    file.write_text(json.dumps(record))


def test_a_good_result(workspace: Workspace, truth: Path, run: Run) -> None:
    answer = ok(run("evaluate", workspace.root, "--truth", truth))
    assert "outside the mask all 13 frames are identical to the source" in answer.out
    assert "no known issue" in answer.out
    output = workspace.output_dir(None, None)
    assert str(output / "report.html") in answer.out
    assert (output / "report.html").stat().st_size > 100_000
    content = report(workspace)
    assert content["means"]["outside_psnr"] == "identical"
    assert content["means"]["hit_rate"] > 0.95
    assert content["judged"]["frames"] == FRAMES
    assert len(content["curves"]["centroid_error"]) == FRAMES
    assert [n for n, hit in enumerate(content["curves"]["hit_rate"]) if hit is None] == [0]
    keyframes = content["curves"]["keyframe_psnr"]
    assert [n for n, value in enumerate(keyframes) if value is not None] == [LATER]
    assert 25 < keyframes[LATER] < 30

    # Without masks the object is where the truth differs from the source.
    for part in ("masks", "background"):
        shutil.rmtree(truth / part)
    ok(run("evaluate", workspace.root, "--truth", truth))
    means = report(workspace)["means"]
    assert means["hit_rate"] > 0.95
    assert means["object_found"] == 1.0


def test_a_bad_result_is_told(run: Run, tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "ws", BAD["faded"](), {0: SCENE.truth[0]})
    answer = ok(run("evaluate", workspace.root))
    assert "issue: The edit turns back into the source" in answer.out
    signs = report(workspace)["verdict"]["signs"]
    assert [sign["name"] for sign in signs] == ["vanished"]


def test_without_a_clip_no_torch_is_loaded(workspace: Workspace) -> None:
    code = (
        "import sys; from maskora.cli import app; "
        f"app(['evaluate', {str(workspace.root)!r}], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clip_and_quality(workspace: Workspace, clip: Path, run: Run) -> None:
    answer = ok(run("evaluate", workspace.root, "--clip", clip, "--quality", clip))
    assert answer.err.count("loading CLIP") == 1, "one for both"
    curves = report(workspace)["curves"]
    expected = {
        "clip_score", "input_similarity", "clip_steadiness", "source_clip_steadiness", "quality",
        "source_quality", "text_alignment", "region_text_alignment", "reference_similarity",
    }  # fmt: skip
    assert expected <= set(curves)
    # The good result is blurred a little: near the edited first frame there, but not the same.
    assert 0.9 < curves["clip_score"][0] < 1.0
    assert curves["clip_steadiness"][0] is None


def test_the_reference_and_the_caption(
    workspace: Workspace, clip: Path, run: Run, tmp_path: Path
) -> None:
    line = "evaluate", workspace.root, "--clip", clip
    ok(run(*line))
    own = report(workspace)["curves"]
    assert 0.9 < own["reference_similarity"][0] < 1.0
    write_png(tmp_path / "other.png", np.zeros((40, 40, 3), np.uint8))
    ok(run(*line, "--reference", tmp_path / "other.png"))
    other = report(workspace)["curves"]
    assert other["reference_similarity"][0] < own["reference_similarity"][0]
    assert other["text_alignment"] == own["text_alignment"]
    with changed_record(workspace) as record:
        record["prompt"] = "TOKEN a green square, quite another thing"
    ok(run(*line))
    assert report(workspace)["curves"]["text_alignment"] != own["text_alignment"]
    refused(run(*line, "--reference", tmp_path / "no.png"), "no.png")
    answer = ok(run("evaluate", workspace.root, "--reference", tmp_path / "other.png"))
    assert "--reference has no effect without --clip" in answer.err


@pytest.mark.parametrize("lacking", ["text side", "caption"])
def test_without_words_the_other_similarities_are_taken(
    workspace: Workspace, clip: Path, run: Run, tmp_path: Path, lacking: str
) -> None:
    if lacking == "text side":
        clip = tmp_path / "vision"
        write_tiny_clip_vision(clip)
    else:
        with changed_record(workspace) as record:
            del record["prompt"]
    ok(run("evaluate", workspace.root, "--clip", clip))
    content = report(workspace)
    assert "reference_similarity" in content["means"]
    assert "text_alignment" not in content["means"]
    assert any("caption" in note for note in content["notes"])


def test_what_an_edit_leaks_beyond_the_mask_is_not_asked_for(
    clip: Path, run: Run, tmp_path: Path
) -> None:
    """As in infer: the outside is the source's, whatever the edited frame shows there."""
    leaking = np.where(SCENE.box[0][..., None], SCENE.truth[0], 255 - SCENE.source[0])
    workspace = write_workspace(tmp_path / "ws", SCENE.truth, {0: leaking})
    ok(run("evaluate", workspace.root, "--clip", clip))
    assert report(workspace)["curves"]["clip_score"][0] == pytest.approx(1.0, abs=1e-5)
    with changed_record(workspace) as record:
        record["config"]["appearance"]["spill"] = "keep"
    ok(run("evaluate", workspace.root, "--clip", clip))
    assert report(workspace)["curves"]["clip_score"][0] < 0.99


def test_without_an_exact_file_the_compressed_one_is_judged(workspace: Workspace, run: Run) -> None:
    (workspace.output_dir(None, None) / "edited.mkv").unlink()
    ok(run("evaluate", workspace.root))
    content = report(workspace)
    assert 30 < content["means"]["outside_psnr"] < 60
    assert any("H.264" in note for note in content["notes"])
    assert content["verdict"]["signs"] == []


def test_seeds(workspace: Workspace, run: Run) -> None:
    first, other = workspace.output_dir(None, None), workspace.output_dir(None, 7)
    with changed_record(workspace) as record:
        record["seed"] = 5
    other.mkdir()
    for name in ("edited.mkv", "run.json"):
        shutil.copy(first / name, other)
    ok(run("evaluate", workspace.root, "--seed", 5))
    assert not (other / "report.json").exists()
    ok(run("evaluate", workspace.root, "--seed", 7))
    assert (other / "report.json").exists()
    refused(run("evaluate", workspace.root, "--seed", 6), "no result of seed 6 (but of 5, 7)")


def test_a_real_run(prepared: Callable[..., Path], run: Run) -> None:
    """infer takes an earlier report away; what it leaves is judged as it is."""
    workspace = Workspace(prepared())
    output = workspace.output_dir(None, None)
    output.mkdir()
    for name in ("report.html", "report.json"):
        (output / name).write_text("of an earlier result")
    ok(run("infer", "--config", workspace.config, "--lora", "none"))
    assert not (output / "report.html").exists()
    assert not (output / "report.json").exists()
    ok(run("evaluate", workspace.root))
    assert report(workspace)["means"]["outside_psnr"] == "identical"
    # edited.mp4 has the original's size, four times as many pixels.
    (output / "edited.mkv").unlink()
    ok(run("evaluate", workspace.root))
    assert report(workspace)["means"]["outside_psnr"] > 35


def test_a_truth_that_cannot_be_used_is_refused(
    workspace: Workspace, truth: Path, run: Run, tmp_path: Path
) -> None:
    line = "evaluate", workspace.root, "--truth"
    refused(run(*line, tmp_path / "no"), "no/00000.png is missing")
    for part in ("", "masks", "background"):
        path = truth / part / "00004.png"
        whole = path.read_bytes()
        for damaged in (whole[:60], b"no picture"):
            path.write_bytes(damaged)
            refused(run(*line, truth), f"--truth: {path}", "write this picture of the truth again")
        path.write_bytes(whole)
    write_png(truth / "00003.png", np.zeros((50, 60, 3), np.uint8))
    refused(run(*line, truth), "00003.png is 60x50: write it in", "128x96")
    (truth / "background" / "00007.png").unlink()
    refused(run(*line, truth), "background/00007.png is missing")
    assert not (workspace.output_dir(None, None) / "report.json").exists()


def test_no_result_is_told_with_what_makes_one(workspace: Workspace, run: Run) -> None:
    (workspace.output_dir(None, None) / "run.json").unlink()
    refused(run("evaluate", workspace.root), "no finished result", "infer.py --config")
    refused(run("evaluate", workspace.root / "edits"), "not a prepared workspace")
    workspace.edit_dir("red").mkdir()
    refused(run("evaluate", workspace.root, "--edit", "red"), "output/red", "--edit red")


def change_mask(workspace: Workspace) -> None:
    labels = read_labels(workspace.mask(3))
    labels[:4] = 1
    write_labels(workspace.mask(3), labels)


def change_source_frame(workspace: Workspace) -> None:
    picture = read_image(workspace.source_frame(5))
    picture[0, 0] += 1
    write_png(workspace.source_frame(5), picture)


def change_edit(workspace: Workspace) -> None:
    path = workspace.edited_frame(None, 0, ".png")
    write_png(path, 255 - read_image(path))


def exchange_edits(workspace: Workspace) -> None:
    first, later = (workspace.edited_frame(None, n, ".png") for n in (0, LATER))
    first_bytes = first.read_bytes()
    first.write_bytes(later.read_bytes())
    later.write_bytes(first_bytes)


def remove_edit(workspace: Workspace) -> None:
    workspace.edited_frame(None, LATER, ".png").unlink()


def add_edit(workspace: Workspace) -> None:
    """Even one of the same content."""
    first = workspace.edited_frame(None, 0, ".png")
    shutil.copy(first, workspace.edited_frame(None, 4, ".png"))


def prepare_anew(workspace: Workspace) -> None:
    workspace.write_source(workspace.read_source().model_copy(update={"start": 3}))


def forget_inputs(workspace: Workspace) -> None:
    with changed_record(workspace) as record:
        del record["inputs"]["frames"]


def shorten(workspace: Workspace) -> None:
    file = workspace.output_dir(None, None) / "edited.mkv"
    write_lossless(file, iter(good()[:9]), Fraction(16))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_mask, ["the masks have changed"]),
        (change_source_frame, ["source frames have changed since", "infer.py"]),
        (change_edit, ["edits/00000.png has changed since", "infer.py"]),
        (exchange_edits, ["edits/00000.png has changed since", "infer.py --config"]),
        (remove_edit, [f"an edited frame {LATER}", "which is gone", "infer.py"]),
        (add_edit, ["edits/00004.png was not there", "infer.py"]),
        (prepare_anew, ["before the workspace was prepared anew"]),
        (forget_inputs, ["run.json is damaged", "run python infer.py"]),
        (shorten, [f"9 frames of {WIDTH}x{HEIGHT}", f"has {FRAMES}"]),
    ],
)
def test_what_has_changed_since_is_refused(
    workspace: Workspace, run: Run, change: Callable[[Workspace], None], words: list[str]
) -> None:
    change(workspace)
    refused(run("evaluate", workspace.root), *words)


def test_edited_frames_may_be_links_and_the_workspace_may_move(
    workspace: Workspace, run: Run, tmp_path: Path
) -> None:
    """A record names what links within the workspace lead to."""
    path = workspace.edited_frame(None, LATER, ".png")
    path.rename(workspace.root / "orange.png")
    path.symlink_to("../orange.png")
    moved = Workspace(workspace.root.rename(tmp_path / "moved"))
    ok(run("evaluate", moved.root))
    (moved.root / "orange.png").write_bytes(moved.edited_frame(None, 0, ".png").read_bytes())
    refused(run("evaluate", moved.root), "00008.png has changed since")


def test_two_edited_frames_may_be_one_file(workspace: Workspace, run: Run) -> None:
    first, later = (workspace.edited_frame(None, n, ".png") for n in (0, LATER))
    later.unlink()
    later.symlink_to(first)
    with changed_record(workspace) as record:
        record["inputs"]["edited"][str(LATER)] = record["inputs"]["edited"]["0"]
    ok(run("evaluate", workspace.root))
    change_edit(workspace)
    refused(run("evaluate", workspace.root), f"{first} has changed since")


def test_a_damaged_file_of_the_clip_is_refused(workspace: Workspace, run: Run) -> None:
    for path in (workspace.source_frame(4), workspace.mask(4)):
        whole = path.read_bytes()
        for damaged in (whole[:60], b"no picture"):
            path.write_bytes(damaged)
            answer = run("evaluate", workspace.root)
            refused(answer, f"{path} is missing, damaged or of another size", "maskora prepare")
        path.unlink()
        refused(run("evaluate", workspace.root), f"{path} is missing", "maskora prepare")
        path.write_bytes(whole)


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


def test_what_is_asked_for_is_checked_before_the_work(
    workspace: Workspace, run: Run, tmp_path: Path
) -> None:
    refused(run("evaluate", workspace.root, "--clip", tmp_path / "none"), "--clip: ")
    refused(run("evaluate", workspace.root, "--quality", tmp_path), "--quality: ", "config.json")
    for option in ("--clip", "--quality"):
        refused(run("evaluate", workspace.root, option, ""), f"{option} names nothing", "leave")
    for name in ("report.html", "report.json"):
        path = workspace.output_dir(None, None) / name
        path.mkdir()
        refused(run("evaluate", workspace.root), f"{path} is a folder", "move it away")
        path.rmdir()
