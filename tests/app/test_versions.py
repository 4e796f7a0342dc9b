"""Versions of a result: kept, told apart, starred, removed."""

import json
import os
import shutil
from pathlib import Path

import pytest

from maskora.app.evaluate import find_result
from maskora.app.outputs import RESULT
from maskora.app.versions import (
    disk_use,
    find_versions,
    kept_numbers,
    remove_version,
    set_star,
)
from maskora.app.workspace import Workspace
from maskora.errors import UserError
from maskora.files import sha256_file
from tests.app.conftest import Run, at, ok, repaint, sets

KEEP = ["--keep"]


def files(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in RESULT if (folder / name).is_file()}


@pytest.fixture(scope="module")
def thrice(
    done: Path, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, str]]]:
    """A workspace with three versions of a result, and what each was when it was the newest."""
    root = Path(shutil.copytree(done, tmp_path_factory.mktemp("versions") / "ws"))
    before = [files(root / "output")]
    ok(run("infer", *at(root), *KEEP, "--seed", 3, "--lora", "none", *sets("inference.steps=3")))
    before.append(files(root / "output"))
    repaint(root, 0, (30, 44, 30, 20))
    (root / "edits" / "00008.png").unlink()
    repaint(root, 4)
    ok(run("infer", *at(root), *KEEP, "--seed", 3, "--lora", "none"))
    before.append(files(root / "output"))
    return root, before


@pytest.fixture
def versioned(thrice: tuple[Path, list[dict[str, str]]], tmp_path: Path) -> Workspace:
    """The same, to change."""
    return Workspace(Path(shutil.copytree(thrice[0], tmp_path / "ws")))


def test_a_new_result_lets_the_earlier_one_stay(thrice: tuple[Path, list[dict[str, str]]]) -> None:
    root, before = thrice
    output = root / "output"
    assert [files(output / "001"), files(output / "002"), files(output)] == before
    found = find_versions(Workspace(root), None)
    assert [version.number for version in found] == [1, 2, None]
    assert [version.made for version in found] == sorted(version.made for version in found)
    assert found[0].nbytes == sum((output / "001" / name).stat().st_size for name in before[0])


def test_what_each_round_changed_is_told_in_words(
    thrice: tuple[Path, list[dict[str, str]]],
) -> None:
    first, second, third = find_versions(Workspace(thrice[0]), None)
    assert (first.settings, first.changes) == ("appearance step 2, 2 steps, seed 0", ())
    assert second.changes == (
        "no LoRA (was appearance step 2)", "seed 3 (was 0)", "inference.steps 3 (was 2)",
    )  # fmt: skip
    assert third.changes == (
        "frame 0 edited again", "frame 4 edited", "frame 8 no longer edited",
        "inference.steps 2 (was 3)",
    )  # fmt: skip


def test_the_best_one_is_kept_without_being_asked(copied: Path, run: Run) -> None:
    before = files(copied / "output")
    set_star(Workspace(copied), None, None, True)
    ok(run("infer", *at(copied), "--seed", 1))
    first, newest = find_versions(Workspace(copied), None)
    assert (first.number, first.starred, newest.starred) == (1, True, False)
    assert files(first.folder).items() >= before.items()


def test_without_being_asked_none_is_kept_and_the_same_is_kept_once(copied: Path, run: Run) -> None:
    ok(run("infer", *at(copied), "--seed", 1))
    assert kept_numbers(copied / "output") == []
    ok(run("infer", *at(copied), *KEEP, "--seed", 1))
    assert kept_numbers(copied / "output") == [], "the same to the byte"
    ok(run("infer", *at(copied), *KEEP, "--seed", 2))
    assert kept_numbers(copied / "output") == [1]
    assert find_result(Workspace(copied), Workspace(copied).read_source(), None, None)


def test_a_star_goes_with_its_version_and_there_is_one(versioned: Workspace, run: Run) -> None:
    def starred() -> list[int | None]:
        return [one.number for one in find_versions(versioned, None) if one.starred]

    before = files(versioned.output_dir(None, None) / "001")
    set_star(versioned, None, 1, True)
    set_star(versioned, None, None, True)
    assert starred() == [None]
    ok(run("infer", *at(versioned.root), *KEEP, "--seed", 5, "--lora", "none"))
    assert starred() == [3], "it stays with what was starred"
    set_star(versioned, None, 3, False)
    assert starred() == []
    assert files(versioned.output_dir(None, None) / "001") == before
    with pytest.raises(UserError, match="holds no finished result"):
        set_star(versioned, None, 9, True)


def test_no_edit_has_the_name_of_the_star(versioned: Workspace, run: Run) -> None:
    """Results of edits with a name lie beside those of the one without."""
    other = versioned.output_dir("starred", None) / "edited.mkv"
    other.parent.mkdir()
    other.touch()
    set_star(versioned, None, None, True)
    set_star(versioned, None, 1, True)
    ok(run("infer", *at(versioned.root), "--seed", 5, "--lora", "none"))
    assert other.exists()
    for name in RESULT:
        with pytest.raises(UserError, match="a name starts with"):
            versioned.output_dir(name, None)


def test_one_is_removed_by_the_person_alone(versioned: Workspace, run: Run) -> None:
    set_star(versioned, None, 2, True)
    with pytest.raises(UserError, match="has the star"):
        remove_version(versioned, None, 2)
    use = disk_use(versioned)
    freed = sum(path.stat().st_size for path in versioned.output_dir(None, None).glob("001/*"))
    remove_version(versioned, None, 1)
    assert [one.number for one in find_versions(versioned, None)] == [2, None]
    assert disk_use(versioned) == {**use, "results": use["results"] - freed}
    ok(run("infer", *at(versioned.root), *KEEP, "--seed", 6, "--lora", "none"))
    assert [one.number for one in find_versions(versioned, None)] == [2, 3, None]


def test_a_file_of_two_names_counts_once(versioned: Workspace) -> None:
    use = disk_use(versioned)
    os.link(versioned.output_dir(None, None) / "edited.mkv", versioned.cache_dir / "again")
    assert sum(disk_use(versioned).values()) == sum(use.values())


DAMAGED = (
    [], {"seed": "?"}, {"config": {"motion": []}}, {"loras": [{"path": 3}]},
    {"inputs": []}, {"inputs": {"edited": 3}}, {"inputs": {"edited": {"x": {}}}},
    {"inputs": {"edited": {"9" * 5000: {}}}}, {"inputs": {"edited": {"0": "?"}}},
)  # fmt: skip
ODD = ({}, {"loras": [{"path": "step-1/a"}]}, {"loras": [{"path": "x/step-y/a"}]})


def with_record(root: Path, record: object) -> Workspace:
    """A workspace with a version, and a newest one of which a stranger has written the record."""
    workspace = Workspace(root)
    output = workspace.output_dir(None, None)
    (output / "001").mkdir(parents=True)
    (output / "001" / "run.json").write_text("{}")
    (output / "run.json").write_text(json.dumps(record))
    return workspace


@pytest.mark.parametrize("record", DAMAGED)
def test_a_strangers_record_ends_in_a_message(tmp_path: Path, record: object) -> None:
    with pytest.raises(UserError, match="is damaged"):
        find_versions(with_record(tmp_path, record), None)


@pytest.mark.parametrize("record", ODD)
def test_a_strangers_lora_has_a_name(tmp_path: Path, record: object) -> None:
    assert len(find_versions(with_record(tmp_path, record), None)) == 2
