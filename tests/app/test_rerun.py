"""rerun: the same bytes where nothing differs, else a sentence for each difference."""

import json
import shutil
from pathlib import Path

import pytest

from maskora.app import outputs
from maskora.files import sha256_file
from tests.app.conftest import Run, at, ok, refused, repaint


def made(root: Path) -> dict[str, str]:
    names = ("edited.mp4", "edited.mkv", "comparison.mp4", "strip.png")
    return {name: sha256_file(root / "output" / name) for name in names}


def test_where_nothing_differs_the_bytes_are_the_same(
    copied: Path, run: Run, tmp_path: Path
) -> None:
    """Whatever edit.toml says by now; the workspace may have been moved."""
    ok(run("infer", *at(copied, "inference.feather=1.0"), "--seed", "7"))
    expected = made(copied)
    moved = copied.rename(tmp_path / "moved")
    (moved / "edit.toml").write_text("[inference]\nsteps = 30\n")
    answer = ok(run("rerun", moved / "output" / "run.json", "--output", tmp_path / "again.mp4"))
    assert "note:" not in answer.err
    assert answer.out.startswith("the same bytes as then: comparison.mp4, edited.mkv, edited.mp4")
    assert made(moved) == expected
    assert sha256_file(tmp_path / "again.mp4") == expected["edited.mp4"]


def test_a_result_of_another_seed_stays_where_it_is(copied: Path, run: Run, tmp_path: Path) -> None:
    ok(run("infer", *at(copied), "--seed", "4,5", "--lora", "none"))
    record, first = tmp_path / "kept.json", made(copied)
    shutil.copy(copied / "output" / "seed-5" / "run.json", record)
    assert "the same bytes" in ok(run("rerun", record)).out
    assert made(copied) == first
    assert json.loads((copied / "output" / "seed-5" / "run.json").read_text())["seed"] == 5


def test_every_difference_of_what_it_was_made_from_is_told(
    copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: object) -> None:
        raise AssertionError("it generates")

    monkeypatch.setattr("maskora.app.passages.generate", generate)
    before, record = made(copied), copied / "output" / "run.json"
    repaint(copied, 0, (24, 44, 20, 20))
    repaint(copied, 4, (24, 44, 20, 20))
    (copied / "edits" / "00008.png").unlink()
    lora = copied / "runs" / "appearance" / "step-00002" / "adapter.safetensors"
    shutil.copy(copied / "runs" / "motion" / "step-00002" / "adapter.safetensors", lora)
    answer = run("rerun", record)
    for words in (
        "edited frame 0 has changed", "edited frame 4 was not there then",
        "edited frame 8 is not there any more", f"the LoRA {lora} has changed",
    ):  # fmt: skip
        assert f"  {words}\n" in answer.err
    assert answer.status == 2
    assert "cannot be repeated" in answer.err
    shutil.rmtree(copied / "runs")
    refused(run("rerun", record), f"the LoRA {lora}", "is gone")
    assert made(copied) == before


def test_another_machine_is_told_and_no_hindrance(
    copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "__version__", "99")
    record = copied / "output" / "run.json"
    content = json.loads(record.read_text())
    content["versions"]["torch"] = "1.0"
    del content["inputs"]["original"], content["outputs"], content["versions"]["numpy"]
    record.write_text(json.dumps(content))
    answer = ok(run("rerun", record))
    notes = [line for line in answer.err.splitlines() if "the result may differ" in line]
    assert [note.split()[1] for note in notes] == ["program", "torch"]
    assert "is maskora 99 here, and was maskora " in notes[0]
    assert "not recorded" in answer.out


@pytest.mark.usefixtures("small_tiles")
def test_other_tiles_of_the_vae_are_told(copied: Path, run: Run) -> None:
    record = copied / "output" / "run.json"
    answer = ok(run("rerun", record))
    note = "note: vae_tiling is tiles of 128 pixels here, and was whole pictures: the result may"
    assert note in answer.err
    assert json.loads(record.read_text())["vae_tiling"] == "tiles of 128 pixels"


def test_a_record_that_is_none_is_refused(copied: Path, run: Run, tmp_path: Path) -> None:
    refused(run("rerun", tmp_path / "no.json"), "no.json is missing")
    refused(run("rerun", copied / "source" / "source.json"), "source.json is damaged")
