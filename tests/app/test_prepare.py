"""prepare: wrong inputs leave nothing, no file of the person is lost, and a workspace is whole."""

import shutil
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from maskora.app.prepare import scaffold
from maskora.app.workspace import Workspace, original_video
from maskora.config import load_config
from maskora.errors import UserError
from maskora.files import sha256_file
from maskora.masks.files import write_labels
from maskora.video.fit import FramePlacement, fit_image
from maskora.video.images import read_image, write_png
from maskora.video.read import read_frames
from maskora.video.write import write_mp4
from tests.app.conftest import FAST, Answer, Prepared, Run, at, ok, refused, repaint, sets
from tests.ball import draw_frame
from tests.system import posix_only

BOX = ["--box", "16,64,120,96"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "ws"


@pytest.fixture
def prepare(run: Run, ball: Path, tiny_model: Path) -> Run:
    """Prepare the ball, or another video, at 160x96 on the tiny model."""

    def call(root: Path, *options: object, video: Path = ball) -> Answer:
        base = ["--size", "160x96", *sets(f"model.path={tiny_model}"), *FAST]
        return run("prepare", video, root, *base, *options)

    return call


def files_of(root: Path) -> dict[Path, bytes]:
    """Every file of a workspace by its content, but the locks."""
    locks = (Workspace(root).lock, Workspace(root).work_lock)
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p not in locks}


def untouched(target: Path) -> None:
    assert not target.exists()
    assert list(target.parent.iterdir() if target.parent.exists() else []) == []


def test_a_video_that_is_none(prepare: Run, target: Path, ball: Path, tmp_path: Path) -> None:
    missing = prepare(target, *BOX, video=tmp_path / "no.mp4")
    refused(missing, "no.mp4", "no such video file or folder")
    (tmp_path / "notes.mp4").write_text("buy milk\n" * 50)
    refused(prepare(target, *BOX, video=tmp_path / "notes.mp4"), "notes.mp4")
    for share in (0.3, 0.8):
        (tmp_path / "cut.mp4").write_bytes(ball.read_bytes()[: int(ball.stat().st_size * share)])
        refused(prepare(target, *BOX, video=tmp_path / "cut.mp4"), "cut.mp4")
    untouched(target)


def test_a_playlist_is_neither_a_video_nor_a_mask(
    prepare: Run, target: Path, ball: Path, tmp_path: Path
) -> None:
    """The clip beside it is not opened in its stead, whatever the playlist is called."""
    (tmp_path / "clip.mp4").write_bytes(ball.read_bytes())
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile 'clip.mp4'\n")
    refused(prepare(target, *BOX, video=path), "list.mp4: not one of the video files")
    refused(prepare(target, "--mask", path), "list.mp4: not one of the video files")
    assert not target.exists()


@pytest.mark.parametrize(
    ("count", "inside", "words"), [(5, 1, ["masks", "5", "9"]), (9, 0, ["nothing is marked"])]
)
def test_masks_that_do_not_fit(
    prepare: Run, target: Path, tmp_path: Path, count: int, inside: int, words: list[str]
) -> None:
    labels = np.zeros((192, 320), np.uint8)
    labels[60:120, 40:100] = inside
    for number in range(count):
        write_labels(tmp_path / "masks" / f"{number:05d}.png", labels)
    refused(prepare(target, "--mask", tmp_path / "masks"), *words)
    untouched(target)


@pytest.mark.parametrize(
    ("options", "words", "lines"),
    [
        ([*BOX, "--frames", "4"], ["[video] frames", "5"], 2),
        ([*BOX, "--frames", "some"], ["[video] frames", "integer", "some"], 2),
        ([*BOX, "--size", "150x96"], ["150x96", "16", "nearest is 144x96"], 1),
        ([*BOX, "--size", "big"], ["big", "WIDTHxHEIGHT"], 2),
        ([*BOX, "--start", "100"], ["9 frames", "100"], 1),
        ([*BOX, "--set", "mask.shape=circle"], ["[mask] shape", "'box'"], 2),
        ([*BOX, "--set", "mask.margn=0.2"], ["'margn'", "did you mean 'margin'"], 2),
        (["--box", "1,2,3"], ["X,Y,W,H"], 1),
        (["--box", "900,900,50,50"], ["320x192"], 1),
        (["--box", "10,10,0,5"], ["10"], 1),
    ],
)
def test_options_that_cannot_be(
    prepare: Run, target: Path, options: list[str], words: list[str], lines: int
) -> None:
    refused(prepare(target, *options), *words, lines=lines)
    untouched(target)


def test_a_workspace_is_not_overwritten_unasked(prepare: Run, prepared: Prepared) -> None:
    root = prepared()
    before = (root / "edit.toml").read_text()
    refused(prepare(root, *BOX), "--overwrite")
    assert (root / "edit.toml").read_text() == before
    (root / "candidates" / "00000").mkdir(parents=True)
    (root / "candidates" / "00000" / "1.png").write_bytes(b"of a frame that is another one now")
    ok(prepare(root, *BOX, "--overwrite", "--frames", 5))
    assert (root / "edits" / "00000.png").is_file()
    assert not (root / "candidates").exists()
    assert len(list((root / "source").glob("0*.png"))) == 5


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_folder_with_a_persons_own_source_is_refused(
    prepare: Run, ball: Path, tmp_path: Path, options: list[str]
) -> None:
    video = tmp_path / "project" / "source" / "holiday.mp4"
    video.parent.mkdir(parents=True)
    shutil.copy(ball, video)
    answer = prepare(tmp_path / "project", *BOX, *options, video=video)
    refused(answer, "was not made by prepare")
    assert video.read_bytes() == ball.read_bytes()
    assert sorted(p.name for p in (tmp_path / "project").iterdir()) == ["source"]


def test_a_video_inside_what_is_replaced_is_refused(
    prepare: Run, prepared: Prepared, ball: Path
) -> None:
    root = prepared()
    video = root / "source" / "clip.mp4"
    shutil.copy(ball, video)
    refused(prepare(root, *BOX, "--overwrite", video=video), "move it elsewhere")
    assert video.is_file()


@pytest.mark.parametrize("place", ["masks", "tracking", "output"])
def test_a_video_where_something_will_be_written_is_refused(
    prepare: Run, prepared: Prepared, ball: Path, place: str
) -> None:
    root = prepared()
    video = root / place / "edited.mp4"
    video.parent.mkdir(exist_ok=True)
    shutil.copy(ball, video)
    refused(prepare(root, *BOX, "--overwrite", video=video), f"lies in {root / place}")
    assert video.read_bytes() == ball.read_bytes()


def test_the_original_is_recorded(prepared: Prepared, ball: Path) -> None:
    source = Workspace(prepared()).read_source()
    assert (source.origin_sha256, source.origin_frames) == (sha256_file(ball), 9)


@posix_only  # elsewhere nobody can replace what ffmpeg has open
def test_a_video_that_is_replaced_while_it_is_read_makes_no_workspace(
    prepare: Run, target: Path, ball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, other = Path(shutil.copy(ball, tmp_path / "clip.mp4")), tmp_path / "other.mp4"
    write_mp4(other, (draw_frame(n, (220, 60, 60)) for n in range(9)), Fraction(16))

    def fit(frame_HWC: np.ndarray, placement: FramePlacement) -> np.ndarray:
        if other.exists():
            other.replace(video)
        return fit_image(frame_HWC, placement)

    monkeypatch.setattr("maskora.app.prepare.fit_image", fit)
    refused(prepare(target, *BOX, "--frames", 9, video=video), str(video), "another video")
    untouched(target)


def test_what_was_killed_while_it_was_put_in_place_is_finished(
    prepare: Run, prepared: Prepared, run: Run
) -> None:
    """The command that comes next does that, whichever it is."""
    root = prepared()
    expected, ready = files_of(root), root / ".exchange-x"
    for part in ("new", "gone", "old"):
        (ready / part).mkdir(parents=True)
    for name in ("source", "masks", "edit.toml"):
        (root / name).rename(ready / "new" / name)
    (root / "source").mkdir()  # of the earlier clip
    (root / "edit.toml").write_text("[video]\nframes = 33\n")
    ok(run("check", *at(root)))
    assert files_of(root) == expected


def test_a_folder_that_is_no_workspace_gets_no_lock(prepare: Run, tmp_path: Path) -> None:
    refused(prepare(tmp_path, "--mask", tmp_path / "no.png"), "no.png")
    with pytest.raises(OSError, match="full"), scaffold(Workspace(tmp_path)):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_a_prepare_that_cannot_be_finished_leaves_a_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == tmp_path / "edit.toml":
            raise PermissionError(13, "not allowed", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError), scaffold(Workspace(tmp_path)) as built:
        built.config.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_that_prepare_one_folder_do_not_mix(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    with scaffold(workspace) as built:
        write_labels(built.mask(0), np.ones((8, 8), np.uint8))
        built.config.touch()
        taken = pytest.raises(UserError, match="open in another maskora")
        with taken, scaffold(workspace):
            pass
    assert {p.name for p in workspace.root.glob("[!.]*")} == {"masks", "edit.toml", "edits"}


@pytest.mark.parametrize("failure", [PermissionError(13, "open in a player"), KeyboardInterrupt()])
def test_a_workspace_that_stands_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """What happens while its scratch folder is removed comes too late."""
    workspace, real = Workspace(tmp_path / "ws"), shutil.rmtree

    def rmtree(path: Path) -> None:
        if workspace.config.exists():
            raise failure
        real(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with suppress(KeyboardInterrupt), scaffold(workspace) as built:
        write_labels(built.mask(0), np.ones((8, 8), np.uint8))
        built.config.touch()
    assert workspace.mask(0).is_file()
    assert workspace.config.is_file()
    assert workspace.edits_dir.is_dir()


@pytest.mark.parametrize("waiting_for_masks", [False, True])
def test_what_fails_halfway_leaves_the_workspace_as_it_was(
    prepared: Prepared, waiting_for_masks: bool
) -> None:
    workspace = Workspace(prepared())
    if waiting_for_masks:
        shutil.rmtree(workspace.masks_dir)
    before = files_of(workspace.root)
    with pytest.raises(FileNotFoundError), scaffold(workspace) as built:  # noqa: PT012
        built.source_dir.mkdir()
        if waiting_for_masks:
            built.masks_dir.mkdir()
        # No edit.toml: the exchange stops there.
    assert files_of(workspace.root) == before
    assert workspace.masks_dir.exists() != waiting_for_masks


def test_a_relative_model_path_works_from_everywhere(
    run: Run, ball: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    words = [*BOX, "--size", "160x96", "--caption", "a ball"]
    ok(run("prepare", ball, tmp_path / "ws", *words, *FAST, *sets(f"model.path={tiny_model.name}")))
    monkeypatch.chdir(tmp_path)
    ok(run("train", *at(Path("ws")), "--stage", "motion"))


def test_images_at_a_rate_of_their_own(
    prepare: Run, run: Run, target: Path, tmp_path: Path
) -> None:
    for number in (0, 1, 2, 3, 7, 8, 9):
        write_png(tmp_path / "shots" / f"f{number}.png", draw_frame(number, (60, 120, 220)))
    answer = ok(prepare(target, *BOX, "--fps", "23.976", "--frames", 5, video=tmp_path / "shots"))
    assert "f3.png is followed by f7.png" in answer.out
    source = Workspace(target).read_source()
    assert source.rate == Fraction(24000, 1001)
    assert original_video(source).fps == Fraction(24000, 1001)
    write_png(target / "edits" / "00000.png", read_image(target / "source" / "00000.png"))
    ok(run("check", *at(target)))
    refused(run("check", *at(target, "video.fps=24")), "[video] fps is 24.0", "24000/1001", lines=2)


@pytest.fixture
def two_shots(tmp_path: Path) -> Path:
    """The ball, and from frame 9 on another place upside down."""
    ball = [draw_frame(number, (60, 120, 220)) for number in range(18)]
    frames = [*ball[:9], *(255 - frame_HWC[::-1, ::-1, ::-1] for frame_HWC in ball[9:])]
    write_mp4(tmp_path / "joined.mp4", map(np.ascontiguousarray, frames), Fraction(16))
    return tmp_path / "joined.mp4"


def test_a_clip_of_two_shots_wants_a_second_edited_frame(
    prepare: Run, run: Run, target: Path, two_shots: Path
) -> None:
    options = ["--start", 2, "--frames", 13]
    lines = ok(prepare(target, *BOX, *options, video=two_shots)).out.splitlines()
    shots, missing = "2 shots, new ones from frame 7 (a cut)", target / "source" / "00007.png"
    note = (
        f"a shot whose first frame is not edited is shown the last edited frame before it, which "
        f"may not fit: where the thing is in it, edit {missing} as well, and save it under the "
        f"same name in {target / 'edits'}; or prepare one shot alone, with --start and "
        f"--frames (frame 7 is --start 9)"
    )
    assert f"note: {shots}; {note}" in lines
    (shot,) = Workspace(target).read_source().shots
    assert (shot.kind, shot.frame) == ("cut", 7)
    repaint(target, 0)
    answer = ok(run("check", *at(target)))
    assert shots in answer.out.splitlines()[0]
    assert f"note: {note}" in answer.out.splitlines()
    repaint(target, 7)
    answer = ok(run("check", *at(target)))
    assert shots in answer.out
    assert "may not fit" not in answer.out


def test_a_shot_alone_is_a_clip_like_any_other(
    prepare: Run, run: Run, target: Path, two_shots: Path
) -> None:
    answer = ok(prepare(target, *BOX, "--start", 9, "--frames", 9, video=two_shots))
    assert " shots" not in answer.out
    assert " shots" not in ok(run("check", *at(target))).out


def test_a_video_at_another_rate(prepare: Run, target: Path) -> None:
    answer = ok(prepare(target, *BOX, "--fps", "32", "--every", "2", "--frames", 5))
    assert "16 frames per second read at 32" in answer.out
    source = Workspace(target).read_source()
    original = original_video(source)
    assert (source.rate, original.fps, original.frames) == (16, 32, 18)
    same = read_frames(original, source.start, source.frames, source.every)
    for number, frame in enumerate(same):
        fitted = fit_image(frame, source.placement)
        np.testing.assert_array_equal(read_image(target / "source" / f"{number:05d}.png"), fitted)


def test_a_mask_that_begins_later_is_said(prepare: Run, target: Path, tmp_path: Path) -> None:
    labels = np.zeros((9, 192, 320), np.uint8)
    labels[4:, 60:120, 40:100] = 1
    for number, label in enumerate(labels):
        write_labels(tmp_path / "masks" / f"{number}.png", label)
    answer = ok(prepare(target, "--mask", tmp_path / "masks", "--set", "mask.smooth=1"))
    assert "begins in frame 4" in answer.out
    assert "--start 4" in answer.out


def test_a_preset_is_written_into_the_configuration_and_settings_go_over_it(
    prepared: Prepared,
) -> None:
    root = prepared("--preset", "anyv2v", "--set", "transfer.attention_share=0.3")
    config = load_config(root / "edit.toml")
    assert config.inference.lora == "none"
    assert config.transfer.attention == "qk"
    assert config.transfer.attention_share == 0.3
    assert config.motion.steps == 2, "what the preset leaves open is as it was set"
