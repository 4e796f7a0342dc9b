"""Who says what a picture shows: the person, else the captioner, once, and remembered."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from maskora import lora
from maskora.app.captions import settle_captions, source_caption, write_captions
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.config.tables import Stage
from maskora.errors import UserError
from maskora.training.run_folder import RunFolder
from maskora.video.images import write_png
from tests.app.conftest import Prepared, Run, at, ok, repaint, sets
from tests.tiny_florence import write_tiny_florence

LOADING, PLAN = "loading the captioner", "RAM, GB"


@pytest.fixture(scope="module")
def tiny_florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("florence") / "florence"
    write_tiny_florence(folder)
    return folder


@pytest.fixture
def auto(prepared: Prepared, tiny_florence: Path) -> Path:
    """A workspace whose captions are all left open, with a keyframe and a captioner in it."""
    open_captions = ("prompt.caption=auto", "prompt.edited_caption=auto", "caption.model=florence")
    root = prepared(*sets(*open_captions))
    shutil.copytree(tiny_florence, root / "florence")
    repaint(root, 4, (30, 40, 40, 30))
    return root


@pytest.fixture
def florence(auto: Path) -> Path:
    """The captioner's folder."""
    return auto / "florence"


def opened(root: Path, *overrides: str) -> tuple[Config, Workspace]:
    return load_config(root / "edit.toml", overrides), Workspace(root)


def images(root: Path) -> list[Path]:
    return [root / "source/00000.png", root / "edits/00000.png", root / "edits/00004.png"]


def write(root: Path, image: Path) -> str:
    config, workspace = opened(root)
    return write_captions(config, workspace, [image])[image]


def lora_prompts(workspace: Workspace, stage: Stage) -> object:
    adapter = RunFolder(workspace.run_dir(stage)).newest_adapter()
    return lora.read(adapter).metadata["prompts"]


def test_a_run_writes_what_is_missing_once_and_remembers_it(
    run: Run, auto: Path, florence: Path
) -> None:
    err = ok(run("train", *at(auto))).err
    assert err.count(LOADING) == 1
    config, workspace = opened(auto)
    texts = write_captions(config, workspace, images(auto))
    places = [err.index(f'caption of {image}: "{texts[image]}"') for image in texts]
    assert err.index(LOADING) < min(places)
    assert max(places) < err.index(PLAN), "the captioner is gone before the base is loaded"
    assert err.count("caption of") == 3
    motion, appearance = (lora_prompts(workspace, stage) for stage in ("motion", "appearance"))
    source, edited, keyframe = texts.values()
    assert motion == [f"p3rs0n {source}"]
    assert appearance == [f"p3rs0n {keyframe}"]

    aside = florence.rename(florence.with_name("aside"))
    again = ok(run("train", *at(auto))).err
    assert "motion: done already" in again
    assert "appearance: done already" in again
    infer = ok(run("infer", *at(auto))).err
    for err in (again, infer):
        assert LOADING not in err
        assert "caption of" not in err
        assert "changed" not in err
    record = json.loads((auto / "output" / "run.json").read_text())
    assert record["prompt"] == f"p3rs0n {edited}"

    aside.rename(florence)
    shutil.rmtree(auto / "cache")
    err = ok(run("infer", *at(auto))).err
    assert err.count(LOADING) == 1
    assert err.count("caption of") == 3
    assert err.rindex("caption of") < err.index(PLAN)
    assert "changed" not in err  # the same words again


def test_the_bare_base_needs_no_caption_of_the_source(run: Run, auto: Path) -> None:
    err = ok(run("infer", *at(auto), "--lora", "none")).err
    assert "caption of" in err
    assert f"caption of {images(auto)[0]}" not in err


def test_a_text_beside_wins_over_the_key_and_the_key_over_the_captioner(
    auto: Path, florence: Path
) -> None:
    config, workspace = opened(auto)
    shutil.rmtree(florence)
    said, _ = opened(auto, "prompt.caption=a ball", "prompt.edited_caption=a pear")
    images(auto)[2].with_suffix(".txt").write_text("an apple\n")
    assert list(settle_captions(said, workspace, images(auto)).values()) == [
        "a ball", "a pear", "an apple",
    ]  # fmt: skip
    images(auto)[0].with_suffix(".txt").write_text("a globe")
    assert source_caption(workspace, said) == "a globe"
    assert source_caption(workspace, config) == "a globe"


def test_an_empty_caption_is_no_caption(auto: Path) -> None:
    empty, workspace = opened(auto, "prompt.caption=' '")
    with pytest.raises(UserError, match=r"\[prompt\] caption is empty.*\"auto\""):
        source_caption(workspace, empty)


def test_a_caption_belongs_to_the_pixels_and_the_captioner(
    auto: Path, florence: Path, tmp_path: Path
) -> None:
    _, workspace = opened(auto)
    first = write(auto, images(auto)[1])
    kept = sorted(workspace.captions_dir.iterdir())
    shutil.move(images(auto)[1], images(auto)[1].with_suffix(".webp"))  # another name
    assert write(auto, images(auto)[1].with_suffix(".webp")) == first
    assert sorted(workspace.captions_dir.iterdir()) == kept
    write_png(images(auto)[1], np.zeros((96, 160, 3), np.uint8))
    assert write(auto, images(auto)[1]) != first
    other = tmp_path / "other"
    write_tiny_florence(other, seed=13)
    named, _ = opened(auto, f"caption.model={other}")
    picture = images(auto)[1].with_suffix(".webp")
    assert write_captions(named, workspace, [picture])[picture] != first
    for path, content in product(kept, (b"\xff", b"")):  # as if it were not there
        path.write_bytes(content)
        assert write(auto, picture) == first
    texts = next(path for path in kept if path.suffix == ".txt")
    texts.write_text(f"\ufeff{first}\n", encoding="utf-8")  # an editor's, with the same words
    assert write(auto, picture) == first


def test_a_caption_corrected_in_the_cache_is_not_lost_but_told(run: Run, auto: Path) -> None:
    """The cache may be deleted at any time, so corrections have another place."""
    first, picture = write(auto, images(auto)[1]), images(auto)[1]
    kept = next((auto / "cache" / "captions").glob("*.txt"))
    kept.write_text("a swan")
    said = rf"{kept.name} is not what florence wrote.*or say.*either in .*edits/00000\.txt or as"
    with pytest.raises(UserError, match=said):
        write(auto, picture)
    for command in ("check", "train", "infer"):
        answer = run(command, *at(auto))
        assert answer.status == 2
        assert str(kept) in answer.err
    assert kept.read_text() == "a swan"
    picture.with_suffix(".txt").write_text("a swan")
    assert settle_captions(*opened(auto), [picture]) == {picture: "a swan"}
    kept.unlink()
    assert write(auto, picture) == first
    kept.with_suffix(".sha256").unlink()  # earlier versions kept none
    kept.write_text("a swan")
    assert write(auto, picture) == "a swan"


def test_the_captioner_can_be_asked_whatever_is_written_already(auto: Path) -> None:
    """As the window does: what it says is an offer, and lands in no .txt."""
    beside = images(auto)[1].with_suffix(".txt")
    beside.write_text("mine")
    assert write(auto, images(auto)[1]) not in ("", "mine")
    assert beside.read_text() == "mine"
    assert not images(auto)[0].with_suffix(".txt").exists()


def test_check_says_who_will_write_and_then_what_was_written(run: Run, auto: Path) -> None:
    config = auto / "edit.toml"
    answer = ok(run("check", "--config", config))
    for image in images(auto):
        assert f"caption of {image}: florence will write it" in answer.out
    assert LOADING not in answer.err
    assert not (auto / "cache").exists()
    text = write(auto, images(auto)[1])
    answer = ok(run("check", "--config", config))
    assert f'caption of {images(auto)[1]}: "{text}"' in answer.out
    assert answer.out.count("will write it") == 2
    given = at(auto, "prompt.caption=a ball", "prompt.edited_caption=a pear")
    assert "caption of" not in ok(run("check", *given)).out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("none", '[caption] model is "none"'),
        ("./nowhere", "'./nowhere' is neither a folder nor a hub id"),
        ("old", "the old layout of microsoft/Florence-2"),
    ],
)
def test_without_a_captioner_both_ways_are_named(
    run: Run, auto: Path, florence: Path, model: str, said: str
) -> None:
    config = json.loads((florence / "config.json").read_text())
    (auto / "old").mkdir()
    (auto / "old" / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    shutil.rmtree(florence)
    chosen = at(auto, f"caption.model={model}")
    for command in ("train", "infer", "check"):
        answer = run(command, *chosen)
        assert answer.status == 2
        for image in images(auto) if command == "check" else images(auto)[1:2]:
            key = "caption" if image.parent.name == "source" else "edited_caption"
            way_out = f"{image.with_suffix('.txt')} or as {key} = "
            (line,) = [line for line in answer.err.splitlines() if way_out in line]
            assert said in line
            assert "[caption] model" in line
    assert not (auto / "runs").exists()


def test_a_captioner_that_the_hub_does_not_give(
    auto: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = r"\[caption\] model: 'maskora-tests/nobody'.*hub.*00000.txt"
    with pytest.raises(UserError, match=said):
        write_captions(*opened(auto, "caption.model=maskora-tests/nobody"), images(auto)[:1])


def test_a_captioner_without_words_is_told(auto: Path, florence: Path) -> None:
    """The real one where its folder forbids every letter."""
    rules = json.loads((florence / "generation_config.json").read_text())
    del rules["min_new_tokens"]
    rules["suppress_tokens"] = [1, *range(3, 102)]
    (florence / "generation_config.json").write_text(json.dumps(rules))
    with pytest.raises(UserError, match=r"finds no words for .*edits/00000.png.*00000.txt"):
        write(auto, images(auto)[1])
    assert not (auto / "cache").exists()
