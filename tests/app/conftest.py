"""Running the real commands in this process, on real small clips."""

import functools
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from maskora.app.plan import plan_for
from maskora.cli import app
from maskora.masks.files import read_labels
from maskora.memory.plan import Plan
from maskora.models.registry import VideoModel, open_model
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4
from tests.app.child import Child
from tests.ball import draw_frame
from tests.models.published import write_published


def sets(*settings: str) -> list[object]:
    """`--set` for each of these."""
    return [word for setting in settings for word in ("--set", setting)]


def at(root: Path, *settings: str) -> list[object]:
    """`--config` of a workspace, with settings for this run."""
    return ["--config", root / "edit.toml", *sets(*settings)]


FAST = sets(
    "model.dtype=float32", "optimizer.type=adamw", "optimizer.lr=1e-3", "motion.steps=2",
    "appearance.steps=2", "motion.window=5", "training.checkpoint_every=1", "inference.steps=2",
    "inference.lossless=true", "inference.feather=3.0",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    status: int
    out: str
    err: str


Run = Callable[..., Answer]
Prepared = Callable[..., Path]


def ok(answer: Answer) -> Answer:
    """The answer of a command that must have succeeded."""
    assert answer.status == 0, answer.err
    return answer


def refused(answer: Answer, *words: str, lines: int = 1) -> None:
    """Status 2 and a message of so many lines that says these words; no traceback."""
    assert answer.status == 2, answer
    message = answer.err[answer.err.index("maskora: ") :].strip()
    assert len(message.splitlines()) == lines, message
    assert "Traceback" not in answer.err
    for word in words:
        assert word in message, message


@pytest.fixture(scope="session")
def run() -> Run:
    """Run `maskora …`; a bug's traceback fails the test."""

    def call(*arguments: object) -> Answer:
        logging.getLogger().handlers.clear()  # the command sets logging up for its own stderr
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of a blue ball rolling over a meadow, 320x192."""
    path = tmp_path_factory.mktemp("clips") / "ball.mp4"
    write_mp4(path, (draw_frame(n, (60, 120, 220)) for n in range(9)), Fraction(16))
    return path


def recolour(source: Path, target: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    """Swap the colours inside a box (x, y, w, h) of a picture, as a person would repaint it."""
    image = read_image(source).copy()
    x, y, width, height = box
    image[y : y + height, x : x + width] = image[y : y + height, x : x + width, ::-1]
    write_png(target, image)
    return image


def repaint(root: Path, frame: int, box: tuple[int, int, int, int] = (20, 40, 40, 30)) -> None:
    """Edit a frame of a workspace so."""
    name = f"{frame:05d}.png"
    recolour(root / "source" / name, root / "edits" / name, box)


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, run: Run, ball: Path, tiny_model: Path
) -> Prepared:
    """Prepare the ball clip at 160x96 with a box around the ball and an edited first frame.

    Each call gives a copy of its own; what has the same options is prepared once.
    """

    def make(*options: object) -> Path:
        return Path(shutil.copytree(prepare(*options), tmp_path_factory.mktemp("edit") / "ws"))

    @functools.cache
    def prepare(*options: object) -> Path:
        root = tmp_path_factory.mktemp("master") / "ws"
        ok(run(
            "prepare", ball, root, "--box", "16,64,120,96", "--size", "160x96", "--frames", 9,
            "--caption", "a blue ball", "--edited-caption", "an orange ball",
            "--set", f"model.path={tiny_model}", *FAST, *options,
        ))  # fmt: skip
        repaint(root, 0)
        return root

    return make


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> VideoModel:
    return open_model("wan2.1-i2v", tiny_model, "float32", "cpu")


@pytest.fixture(scope="session")
def two_shots(
    tmp_path_factory: pytest.TempPathFactory, run: Run, tiny_model: Path
) -> Callable[[], Path]:
    """A clip of two shots, 0-13 and 14-34, of two segments each; each call gives a copy."""
    home = tmp_path_factory.mktemp("shots")
    rng = np.random.default_rng(1)
    other = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    balls = [draw_frame(n, (60, 120, 220)) for n in range(14)]
    write_mp4(home / "cut.mp4", iter([*balls, *[other] * 21]), Fraction(16))
    ok(run(
        "prepare", home / "cut.mp4", home / "ws", "--box", "16,64,120,96", "--size", "80x48",
        "--frames", "all", "--caption", "a ball", "--edited-caption", "an orange ball", *FAST,
        *sets(f"model.path={tiny_model}", "inference.segment=13", "inference.overlap=4"),
    ))  # fmt: skip
    for frame in (0, 14):
        repaint(home / "ws", frame, (10, 20, 20, 15))
    return lambda: Path(shutil.copytree(home / "ws", tmp_path_factory.mktemp("edit") / "ws"))


@pytest.fixture(scope="session")
def done(prepared: Prepared, run: Run) -> Path:
    """A workspace with both stages trained and the clip generated; not to be changed."""
    root = prepared()
    repaint(root, 8, (40, 40, 40, 30))
    for command in ("train", "infer"):
        ok(run(command, *at(root)))
    return root


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """The finished workspace, to change."""
    return Path(shutil.copytree(done, tmp_path / "ws"))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with little free memory: the VAE works in tiles of 128 pixels."""

    def plan(*arguments: Any) -> Plan:
        made = plan_for(*arguments)
        return replace(made, placement=replace(made.placement, vae_tile=128))

    monkeypatch.setattr("maskora.app.open_base.plan_for", plan)


def frames_of(path: Path, count: int | None = None) -> np.ndarray:
    """The frames of a clip, (T, H, W, 3) uint8.

    Args:
        path: a video, or a workspace, whose lossless result is meant.
    """
    video = path / "output" / "edited.mkv" if path.is_dir() else path
    return np.stack(list(read_frames(probe(video), 0, count)))


def keeps_the_background(root: Path) -> np.ndarray:
    """The lossless result's frames, which must be the source, bit for bit, outside the mask."""
    frames = frames_of(root)
    for number, frame in enumerate(frames):
        source = read_image(root / "source" / f"{number:05d}.png")
        keep = read_labels(root / "masks" / f"{number:05d}.png") == 0
        assert 0 < keep.mean() < 1
        assert np.array_equal(frame[keep], source[keep])
    return frames


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration files of Wan2.1-I2V-14B, without weights."""
    return write_published(tmp_path_factory.mktemp("14B"), "Wan2.1-I2V-14B")


@pytest.fixture
def edit(tmp_path: Path, big: Path) -> Path:
    """An edit.toml of defaults on the 14B base, in a folder that is not prepared."""
    path = tmp_path / "ws" / "edit.toml"
    path.parent.mkdir()
    path.write_text(f'[model]\npath = "{big}"\n')
    return path


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Takes maskora's place in processes that are started by commands in this one."""
    made = Child(tmp_path / "a child")
    monkeypatch.setattr("maskora.app.processes.program", lambda: made.program)
    made.does(
        "prepare", "root = pathlib.Path(words[2]); root.mkdir(); (root / 'edit.toml').touch()"
    )
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space in its name, where the person is; it holds what an edit begins with."""
    made = tmp_path / "my clips"
    made.mkdir()
    for name in ("clip.mp4", "edited.PNG", "later one.jpg", "mask.png"):
        (made / name).write_bytes(name.encode())
    monkeypatch.chdir(made)
    return made
