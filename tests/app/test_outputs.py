"""Results are safe: no input is written over, nothing goes before the new stands whole."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from filelock import FileLock

from maskora import __version__
from maskora.app import outputs, passages
from maskora.app.workspace import Workspace, opened, working
from maskora.errors import Fault, UserError
from maskora.files import refuse_inputs, sha256_file
from maskora.video.images import read_image, write_png
from maskora.video.write import write_mp4
from tests.app.conftest import Run, at, frames_of, ok, refused
from tests.ball import draw_frame
from tests.system import posix_only

BARE = ["--lora", "none"]
RESULT = ("edited.mp4", "edited.mkv", "comparison.mp4", "strip.png", "run.json")


def write_ball(path: Path, frames: range) -> None:
    write_mp4(path, (draw_frame(n, (60, 120, 220)) for n in frames), Fraction(16))


def change_source(root: Path, **changes: object) -> None:
    """Change source.json; None removes a key."""
    file = root / "source" / "source.json"
    record = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


@pytest.fixture
def own_video(copied: Path, ball: Path, tmp_path: Path) -> Path:
    """The finished workspace's original, in a place of its own."""
    video = Path(shutil.copy(ball, tmp_path / "clip.mp4"))
    change_source(copied, origin=str(video))
    return video


@pytest.fixture
def no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused is refused before anything is generated."""

    def generate(*_: object) -> None:
        raise AssertionError("it generates")

    monkeypatch.setattr("maskora.app.passages.generate", generate)


def results(root: Path) -> dict[str, str]:
    return {name: sha256_file(root / "output" / name) for name in RESULT}


def as_it_is(path: Path, video: Path) -> Path:
    return video


def in_another_spelling(path: Path, video: Path) -> Path:
    return video.parent / "no such folder" / ".." / ".." / video.parent.name / video.name


def linked(path: Path, video: Path) -> Path:
    path.symlink_to(video)
    return path


def hard_linked(path: Path, video: Path) -> Path:
    os.link(video, path)
    return path


@posix_only
@pytest.mark.usefixtures("no_generation")
@pytest.mark.parametrize("name", [as_it_is, in_another_spelling, linked, hard_linked])
def test_the_original_is_not_written_over(
    copied: Path, own_video: Path, run: Run, tmp_path: Path, name: Callable[[Path, Path], Path]
) -> None:
    (tmp_path / "no such folder").mkdir()
    before, made = own_video.read_bytes(), results(copied)
    output = name(tmp_path / "out.mp4", own_video)
    refused(run("infer", *at(copied), *BARE, "--output", output), "clip.mp4", "is read here")
    assert own_video.read_bytes() == before
    assert results(copied) == made


@posix_only
@pytest.mark.usefixtures("no_generation")
@pytest.mark.parametrize(
    "read",
    ["source/00003.png", "masks/00003.png", "edits/00000.png", "edit.toml",
     "runs/motion/step-00002/adapter.safetensors", "the base"],
)  # fmt: skip
def test_nothing_that_is_read_is_written_over(
    copied: Path, tiny_model: Path, run: Run, tmp_path: Path, read: str
) -> None:
    path, output = copied / read, tmp_path / "out.mp4"
    if read == "the base":
        path = next((tiny_model / "transformer").glob("*.safetensors"))
    before = path.read_bytes()
    own = ["--lora", copied / "runs" / "motion" / "step-00002" / "adapter.safetensors"]
    for name in (linked, hard_linked):
        name(output, path)
        refused(run("infer", *at(copied), *own, "--output", output), str(output), "read")
        assert path.read_bytes() == before
        output.unlink()


@pytest.mark.usefixtures("no_generation")
def test_a_result_that_is_the_original_itself_is_not_replaced(copied: Path, run: Run) -> None:
    """As when a result is edited again, and the workspace copied."""
    video = copied / "output" / "edited.mp4"
    change_source(copied, origin=str(video), origin_sha256=None, origin_frames=None)
    before = video.read_bytes()
    refused(run("infer", *at(copied), *BARE), "output/edited.mp4 is read here")
    assert video.read_bytes() == before


@pytest.mark.parametrize("place", ["output/comparison.mp4", "source/a.mp4", "runs/a.mp4"])
def test_what_a_workspace_holds_is_no_output(copied: Path, run: Run, place: str) -> None:
    refused(run("infer", *at(copied), *BARE, "--output", copied / place), "--output")
    assert not (copied / place).exists() or place.startswith("output")


@pytest.mark.usefixtures("no_generation")
def test_another_original_under_the_same_name_is_refused(
    copied: Path, own_video: Path, run: Run
) -> None:
    before, whole = results(copied), own_video.read_bytes()
    for frames in (range(9, 18), range(6), range(12)):
        write_ball(own_video, frames)
        for command in (["infer", *at(copied), *BARE], ["evaluate", copied]):
            refused(run(*command), str(own_video), "it is another video", "maskora prepare")
        refused(run("check", *at(copied)), "1 problem", "it is another video", lines=2)
        assert results(copied) == before
    own_video.write_bytes(whole)
    ok(run("evaluate", copied))


@pytest.mark.usefixtures("no_generation")
def test_of_an_older_workspace_what_can_be_compared_is(
    copied: Path, own_video: Path, run: Run
) -> None:
    change_source(copied, origin_sha256=None, origin_frames=None)
    write_ball(own_video, range(6))
    before = results(copied)
    refused(run("infer", *at(copied), *BARE), "has 6 frames now, and 9 are needed", "another video")
    assert results(copied) == before
    write_ball(own_video, range(9))
    with pytest.raises(AssertionError, match="it generates"):
        run("infer", *at(copied), *BARE)


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], object]) -> None:
    """Let somebody change files right after a function of passages has done its work."""
    real = getattr(passages, name)

    def call(*arguments: object) -> object:
        answer = real(*arguments)
        change()
        return answer

    monkeypatch.setattr(passages, name, call)


def test_the_record_names_what_was_read_and_not_what_lies_there_at_the_end(
    copied: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = copied / "edits" / "00000.png", copied / "edits" / "00008.png"
    adapter = copied / "runs" / "motion" / "step-00002" / "adapter.safetensors"
    lora = Path(shutil.copy(adapter, tmp_path / "lora.safetensors"))
    read = [sha256_file(path) for path in (first, later, lora)]

    def change() -> None:
        write_png(first, read_image(later))
        later.unlink()
        lora.unlink()

    meanwhile(monkeypatch, "generate", change)
    ok(run("infer", *at(copied), "--lora", lora))
    record = json.loads((copied / "output" / "run.json").read_text())
    edited = record["inputs"]["edited"]
    named = [edited["0"], edited["8"], record["loras"][0]]
    assert [one["sha256"] for one in named] == read
    assert [one["path"] for one in named] == [str(path) for path in (first, later, lora)]


def test_a_lora_that_is_written_to_before_it_is_loaded_is_told(
    copied: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, runs = results(copied), copied / "runs"
    lora = tmp_path / "lora.safetensors"
    shutil.copy(runs / "motion" / "step-00001" / "adapter.safetensors", lora)
    newer = runs / "motion" / "step-00002" / "adapter.safetensors"
    meanwhile(monkeypatch, "encode", lambda: shutil.copy(newer, lora))
    refused(run("infer", *at(copied), "--lora", lora), f"{lora} was written to", "again")
    assert results(copied) == before


@pytest.mark.parametrize("gone", [False, True])
def test_an_original_that_is_changed_meanwhile_makes_no_result(
    copied: Path, own_video: Path, run: Run, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    before, whole = results(copied), own_video.read_bytes()
    change = own_video.unlink if gone else lambda: write_ball(own_video, range(9, 18))
    meanwhile(monkeypatch, "generate", change)
    answer = run("infer", *at(copied), *BARE)
    assert answer.status in (1, 2)
    assert str(own_video) in answer.err.splitlines()[-1]
    assert results(copied) == before
    own_video.write_bytes(whole)
    monkeypatch.undo()
    assert "seed 0 was sampled before" in ok(run("infer", *at(copied), *BARE)).err


@pytest.mark.parametrize("part", ["write_mp4", "write_png", "write_text"])
def test_what_fails_while_writing_leaves_the_earlier_result_and_the_frames(
    copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    before, frames = results(copied), frames_of(copied)

    def fail(path: Path, *_: object) -> None:
        if path.parent.name == "new" and path.name != "edited.mp4":
            raise Fault(f"{path} could not be written: No space left on device")
        path.touch()

    def fail_at_the_strip(path: Path, picture_HWC: np.ndarray) -> None:
        if path.name == "strip.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_png(path, picture_HWC)

    monkeypatch.setattr(outputs, part, fail_at_the_strip if part == "write_png" else fail)
    answer = run("infer", *at(copied))
    assert answer.status == 1, answer.err
    assert "No space left on device" in answer.err
    assert results(copied) == before
    kept = next(line for line in answer.err.splitlines() if "finished frames are kept in" in line)
    pictures = sorted(Path(kept.rpartition(" in ")[2]).glob("*.png"))
    assert np.array_equal(np.stack([read_image(path) for path in pictures]), frames)
    monkeypatch.undo()
    assert not list((copied / "output").glob(".*"))
    ok(run("infer", *at(copied)))
    assert np.array_equal(frames_of(copied), frames)


def test_one_seed_that_fails_takes_no_other_with_it(
    copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = outputs.write_mp4

    def fail_once(path: Path, *rest: object) -> None:
        if path.parents[2].name == "output":  # of the first seed
            raise Fault("no room")
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write_mp4", fail_once)
    assert run("infer", *at(copied), "--seed", "4,5").status == 1
    assert json.loads((copied / "output" / "seed-5" / "run.json").read_text())["seed"] == 5
    assert json.loads((copied / "output" / "run.json").read_text())["seed"] == 0


def test_the_record_names_every_output_and_the_original(copied: Path, ball: Path) -> None:
    record = json.loads((copied / "output" / "run.json").read_text())
    made = {p.name: sha256_file(p) for p in (copied / "output").iterdir() if p.name in RESULT[:-1]}
    assert record["outputs"] == made
    assert len(made) == 4
    assert record["inputs"]["original"]["sha256"] == sha256_file(ball)
    assert record["inputs"]["original"]["frames"] == 9
    assert set(record["timings"]) == {"encoding", "generating", "writing"}
    assert any("RAM" in line for line in record["plan"])


def test_the_record_of_a_short_clip_has_no_segments(copied: Path) -> None:
    assert "segments" not in json.loads((copied / "output" / "run.json").read_text())


def test_a_result_says_that_it_is_ai_edited_and_with_what(copied: Path, tiny_model: Path) -> None:
    for name in ("edited.mp4", "edited.mkv", "comparison.mp4"):
        with av.open(str(copied / "output" / name)) as container:
            said = {key.lower(): text for key, text in container.metadata.items()}
        assert said["comment"] == f"AI-edited with maskora {__version__}, model {tiny_model.name}"
        assert said["description"].endswith(outputs.DIGITAL_SOURCE_TYPE)
    assert "model Wan-AI/Wan2.1" in outputs.provenance("Wan-AI/Wan2.1")["comment"]


def test_evaluate_names_an_output_that_is_not_the_one_that_was_made(copied: Path, run: Run) -> None:
    output = copied / "output"
    whole = (output / "edited.mkv").read_bytes()
    assert f"judged: {output / 'edited.mkv'}" in ok(run("evaluate", copied)).out
    for name in ("comparison.mp4", "edited.mp4"):
        hurt = bytearray((output / name).read_bytes())
        hurt[len(hurt) // 2] ^= 0xFF
        (output / name).write_bytes(hurt)
        assert f"{output / name} is not what infer wrote" in ok(run("evaluate", copied)).err
    hurt = bytearray(whole)
    hurt[len(hurt) // 2] ^= 0xFF
    (output / "edited.mkv").write_bytes(hurt)
    refused(run("evaluate", copied), f"{output / 'edited.mkv'} is not what infer wrote", "infer.py")
    (output / "edited.mkv").unlink()
    refused(run("evaluate", copied), f"{output / 'edited.mp4'} is not what infer wrote")


@posix_only
def test_a_report_is_not_written_over_the_original(copied: Path, own_video: Path, run: Run) -> None:
    for name in ("report.html", "report.json"):
        (copied / "output" / name).unlink(missing_ok=True)
        (copied / "output" / name).hardlink_to(own_video)
        refused(run("evaluate", copied), f"{name} is {own_video}, which is read here")
        (copied / "output" / name).unlink()


def test_evaluate_says_that_the_mp4_is_judged(copied: Path, run: Run) -> None:
    (copied / "output" / "edited.mkv").unlink()
    answer = ok(run("evaluate", copied))
    assert f"judged: {copied / 'output' / 'edited.mp4'}" in answer.out
    assert "edited.mkv, which infer wrote, is gone: edited.mp4 is judged" in answer.err


def test_infer_names_its_lora_and_one_that_a_lost_keyframe_leaves_out(
    copied: Path, run: Run
) -> None:
    lora = copied / "runs" / "appearance" / "step-00002" / "adapter.safetensors"
    assert f"LoRA: {lora}" in ok(run("infer", *at(copied))).err
    assert "LoRA: none" in ok(run("infer", *at(copied), *BARE)).err
    (copied / "edits" / "00008.png").unlink()
    answer = ok(run("infer", *at(copied)))
    assert f"LoRA: {copied / 'runs' / 'motion'}" in answer.err
    assert f"note: {lora} was trained for this edit and is not used" in answer.err


def test_an_infer_that_fails_at_once_leaves_the_result(copied: Path, run: Run) -> None:
    before = results(copied)
    shutil.rmtree(copied / "runs")
    refused(run("infer", *at(copied)), "has not been trained")
    (copied / "output" / "spill.png").mkdir()
    refused(run("infer", *at(copied), *BARE), "spill.png is a folder", "move it away")
    assert results(copied) == before


def test_where_one_program_works_every_other_is_refused(copied: Path, ball: Path, run: Run) -> None:
    """Here this very process does, by a lock of which it knows nothing."""
    commands = [
        ["train", *at(copied)], ["infer", *at(copied), *BARE], ["preview", *at(copied)],
        ["evaluate", copied],
        ["track", copied, "--click", "0,76,112,+", "--overwrite"],
        ["prepare", ball, copied, "--overwrite", "--box", "16,64,120,96"],
    ]  # fmt: skip
    lock = FileLock(Workspace(copied).work_lock)
    Workspace(copied).work_holder.write_text("123\nmaskora train --config \x1bws/edit.toml")
    with lock:
        for command in commands:
            words = ["another maskora works in", "(process 123: maskora train --config ?ws/edit.to"]
            refused(run(*command), *words)
        ok(run("check", *at(copied)))
    ok(run("train", *at(copied)))


@posix_only
@pytest.mark.parametrize("name", [".lock", ".work-lock"])
def test_a_lock_that_is_a_link_is_not_followed(
    copied: Path, run: Run, tmp_path: Path, name: str
) -> None:
    for target in (tmp_path / "secret", tmp_path / "nothing"):
        (tmp_path / "secret").write_text("mine")
        (copied / name).unlink(missing_ok=True)
        (copied / name).symlink_to(target)
        answer = run("track", copied, "--click", "0,76,112,+", "--overwrite")
        refused(answer, f"{copied / name} is a link")
        assert (tmp_path / "secret").read_text() == "mine"
        assert not (tmp_path / "nothing").exists()


def test_no_folder_that_is_none_gets_a_lock(tmp_path: Path, tiny_model: Path, run: Run) -> None:
    config = tmp_path / "edit.toml"
    config.write_text(f'[model]\npath = "{tiny_model}"\n')
    for command in ("train", "infer", "preview"):
        refused(run(command, "--config", config), "is not a prepared workspace")
    refused(run("evaluate", tmp_path), "is not a prepared workspace")
    assert list(tmp_path.iterdir()) == [config]


def test_commands_work_where_the_window_is_open_and_it_saves_no_masks_meanwhile(
    copied: Path,
) -> None:
    workspace = Workspace(copied)
    with opened(workspace):
        with working(workspace), working(workspace):
            pass
        with pytest.raises(UserError, match="open in another maskora"), opened(workspace):
            pass


def test_refusing_takes_what_is_not_there_for_no_input(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    refuse_inputs([tmp_path / "a", tmp_path / "no"], [tmp_path / "b", tmp_path / "no"])
    with pytest.raises(UserError, match="a is read here, and would be written over"):
        refuse_inputs([tmp_path / "a"], [tmp_path / "b", tmp_path / "a"])
