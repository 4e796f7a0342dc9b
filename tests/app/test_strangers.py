"""Files from a stranger: a workspace, a folder of jobs, a model's folder, names and numbers."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskora.app.job_folders import job_words
from maskora.app.workspace import Workspace
from maskora.errors import UserError
from tests.app.conftest import Prepared, Run, at, ok, refused
from tests.system import posix_only

COMMANDS = (
    "check", "plan", "train", "infer", "preview", "evaluate", "export", "track", "prepare", "gui",
)  # fmt: skip


def words(command: str, root: Path, ball: Path) -> list[object]:
    """A command on a workspace, complete."""
    further: dict[str, list[object]] = {
        "evaluate": [root],
        "export": [root, root.parent / "lora.safetensors"],
        "track": [root, "--click", "0,76,112,+"],
        "prepare": [ball, root, "--box", "16,64,120,96", "--overwrite"],
        "gui": [root, "--no-browser"],
    }
    return [command, *further.get(command, at(root))]


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """Somebody's folder; nothing in it may be changed."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "key.txt").write_text("hunter2")
    (folder / "record.json").write_text("{}")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "key.txt": "hunter2", "record.json": "{}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "leads_to"),
    [
        ("runs/motion", "."),
        ("output", "."),
        ("cache", "."),
        ("masks/raw", "."),
        ("tracking", "new"),
        ("edits/00000.txt", "key.txt"),
        ("source/00000.png", "key.txt"),
        ("source/source.json", "record.json"),
        ("edit.toml", "key.txt"),
        (".lock", "key.txt"),
        (".lock-holder", "new.txt"),
    ],
)
def test_links_that_lead_out_of_a_workspace_are_refused(
    run: Run, prepared: Prepared, ball: Path, secret: Path, name: str, leads_to: str
) -> None:
    root = prepared()
    link = root / name
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(root.parent / "aside")
    link.symlink_to(secret / leads_to)
    for command in COMMANDS:
        answer = run(*words(command, root, ball))
        refused(answer, str(link), "link that leads elsewhere", str(secret))
        assert "hunter2" not in answer.out + answer.err


def test_a_link_in_a_begun_exchange_is_refused_before_it_is_finished(
    run: Run, prepared: Prepared, secret: Path
) -> None:
    root = prepared()
    for part in ("new", "gone", "old"):
        (root / ".exchange-x" / part).mkdir(parents=True)
    (root / ".exchange-x/new/output").symlink_to(secret)
    refused(run("check", *at(root)), "link that leads elsewhere", str(secret))
    assert not (root / "output").exists()


def test_a_workspace_may_itself_be_a_link_and_links_within_it_are_its_own(
    run: Run, prepared: Prepared, tmp_path: Path
) -> None:
    root = prepared()
    (root / "edits" / "00008.png").symlink_to("00000.png")
    (tmp_path / "ws").symlink_to(root)
    ok(run("check", *at(tmp_path / "ws")))
    ok(run("check", *at(root)))


def test_a_loop_of_links_and_a_link_to_nothing(run: Run, prepared: Prepared) -> None:
    root = prepared()
    (root / "cache").symlink_to("cache")
    refused(run("train", *at(root)), "cache", "link")
    (root / "cache").unlink()
    (root / "output").symlink_to("/nowhere/at/all")
    refused(run("infer", *at(root)), "output", "/nowhere/at/all")


@posix_only
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_ordinary_file_is_not_waited_for(
    run: Run, prepared: Prepared, ball: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = prepared()
    place = root / "edits" / "00000.txt"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        monkeypatch.chdir(place.parent)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place.name)
    else:
        place.symlink_to("/dev/zero")
    for command in COMMANDS:
        refused(run(*words(command, root, ball)), str(place))


def test_check_says_what_a_workspace_reads_elsewhere(
    run: Run, prepared: Prepared, ball: Path, tiny_model: Path, tmp_path: Path
) -> None:
    root, lora = prepared(), tmp_path / "any.safetensors"
    lora.touch()
    loras = f"inference.loras=[{{path = '{lora}'}}]"
    further = ("tracker.type=sam2", "tracker.checkpoint=some/tracker", "editor.model=some/editor")
    out = ok(run("check", *at(root, loras, *further))).out
    assert f"reads outside the workspace: {ball} (the original video), {tiny_model} (model.p" in out
    assert f"{lora} (inference.loras)" in out
    assert "fetches from the hub, once: some/tracker (tracker.checkpoint" in out
    assert "some/editor (editor.model, for maskora edit-frame)" in out
    (root / "any.safetensors").touch()
    out = ok(run("check", *at(root, "inference.loras=[{path = 'any.safetensors'}]"))).out
    assert "any.safetensors" not in out
    assert "the hub" not in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tokenizer/tokenizer_config.json", "tokenizer.json and tokenizer_config.json"),
        ("image_processor/preprocessor_config.json", "preprocessor_config.json or"),
        ("vae/diffusion_pytorch_model.safetensors", "vae/"),
    ],
)
def test_check_says_which_files_of_a_base_are_missing(
    run: Run, prepared: Prepared, tiny_model: Path, tmp_path: Path, name: str, said: str
) -> None:
    base, root = shutil.copytree(tiny_model, tmp_path / "base"), prepared()
    (base / name).unlink()
    for command, lines in (("check", 2), ("infer", 1)):
        refused(run(command, *at(root, f"model.path={base}")), said, lines=lines)


def test_a_folder_that_is_no_workspace_is_not_searched(tmp_path: Path) -> None:
    """A configuration may lie in somebody's home, whose links are nobody's business."""
    (tmp_path / "music").symlink_to("/")
    assert Workspace.open(tmp_path).root == tmp_path
    (tmp_path / "output").symlink_to("/")
    with pytest.raises(UserError, match="output is a link"):
        Workspace.open(tmp_path)


@posix_only
def test_a_device_in_a_models_folder_is_not_read(
    run: Run, prepared: Prepared, tiny_model: Path, tmp_path: Path
) -> None:
    root = prepared()
    for number, name in enumerate(
        ("tokenizer/added.txt", "tokenizer/tokenizer_config.json", "vae/config.json",
         "transformer/diffusion_pytorch_model.safetensors")
    ):  # fmt: skip
        base = shutil.copytree(tiny_model, tmp_path / f"base{number}")
        (base / name).unlink(missing_ok=True)
        (base / name).symlink_to("/dev/zero")
        answer = run("check", *at(root, f"model.path={base}"))
        assert answer.status == 2, name
        assert name.partition("/")[0] in answer.err
    os.mkfifo(tmp_path / "lora.safetensors")
    fifo = tmp_path / "lora.safetensors"
    refused(run("infer", *at(root), "--lora", fifo), str(fifo), "no ordinary file")
    refused(run("export", fifo, tmp_path / "out.safetensors"), str(fifo))
    os.mkfifo(tmp_path / "base.toml")
    box = ("--box", "16,64,120,96")
    refused(
        run("prepare", tmp_path / "x.mp4", tmp_path / "n", "--base", tmp_path / "base.toml", *box)
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("edit.toml", "check"),
        ("source/source.json", "check"),
        ("masks/masks.json", "check"),
        ("tracking/clicks.json", "track"),
        ("edits/00000.txt", "check"),
        ("runs/motion/run.json", "train"),
        ("output/run.json", "evaluate"),
        ("base/transformer/config.json", "check"),
        ("base/tokenizer/tokenizer.json", "check"),
        ("base/tokenizer/more.txt", "train"),
        ("base/transformer/diffusion_pytorch_model.safetensors.index.json", "check"),
    ],
)
def test_a_text_of_any_size_is_refused_before_it_is_read(
    run: Run, prepared: Prepared, tiny_model: Path, ball: Path, name: str, command: str
) -> None:
    root = prepared()
    base = shutil.copytree(tiny_model, root / "base")
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        file.truncate(2**31)
    line = words(command, root, ball)
    chosen = ["--set", f"model.path={base}"] if command in ("check", "train") else []
    answer = run(*line, *chosen)
    assert answer.status == 2
    assert f"{place} has 2147 MB, and such a file has at most" in answer.err


def test_a_jobs_texts_of_any_size_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for name in ("video.mp4", "edited.png"):
        (tmp_path / name).touch()
    (tmp_path / "box.txt").write_text("1,2,3,4")
    for name in ("options.txt", "caption.txt", "box.txt"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**31)
        with pytest.raises(UserError, match=f"{name} has 2147 MB"):
            job_words(tmp_path, "out.mp4", [])
        (tmp_path / name).write_text("")
