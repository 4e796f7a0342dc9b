"""The benchmark: means, distances, the table and the page; two cases by two presets for real."""

import json
import logging
import math
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import scipy.linalg
from typer.testing import CliRunner

from maskora.cli import app
from maskora.errors import UserError
from maskora.video.images import write_png
from maskora.video.probe import probe
from maskora.video.write import write_mp4
from research.benchmark import cases
from research.benchmark.distance import frechet_distance, measure_distance
from research.benchmark.page import as_json, as_markdown, as_page
from research.benchmark.results import (
    CaseResults,
    Distance,
    Mean,
    Outcome,
    Results,
    best_presets,
    mean_over_cases,
)
from research.benchmark.runs import Benchmark, run_all
from tests.ball import draw_frame
from tests.evaluation.tiny_clip import write_tiny_clip

FRAMES = 9


def outcome(**means: float | str) -> Outcome:
    return Outcome(
        made_from="a", judged_from="b", training=30.0, generating=4.0, means=means, prompt="a <dog>"
    )


def test_a_mean_is_of_the_cases_that_have_one_and_leaves_out_identical_ones() -> None:
    some = [outcome(hit_rate=0.5, outside_psnr=30.0), outcome(hit_rate=0.7, outside_psnr=40.0)]
    some.append(outcome(outside_psnr="identical"))
    assert mean_over_cases(some, "hit_rate") == Mean(pytest.approx(0.6), 2)
    assert mean_over_cases(some, "outside_psnr") == Mean(35.0, 3, identical=1)
    assert mean_over_cases(some[2:], "outside_psnr") == Mean(math.inf, 1, identical=1)
    assert mean_over_cases(some, "warp_error") is None


@pytest.mark.parametrize(
    ("key", "means", "best"),
    [
        ("hit_rate", {"a": Mean(0.5, 2), "b": Mean(0.6, 2)}, {"b"}),
        ("warp_error", {"a": Mean(0.5, 2), "b": Mean(0.6, 2), "c": Mean(0.5, 2)}, {"a", "c"}),
        ("outside_psnr", {"a": Mean(math.inf, 2, 2), "b": Mean(50.0, 2)}, {"a"}),
        ("hit_rate", {"a": Mean(0.5, 2), "b": Mean(0.6, 1)}, set()),
        ("hit_rate", {"a": Mean(0.5, 2), "b": Mean(0.5, 2)}, set()),
        ("hit_rate", {"a": Mean(0.5, 2), "b": None}, set()),
        ("edit_change", {"a": Mean(0.5, 2), "b": Mean(0.6, 2)}, set()),
    ],
)
def test_the_best_is_named_where_all_have_the_same_cases(
    key: str, means: dict[str, Mean | None], best: set[str]
) -> None:
    assert best_presets(key, means) == best


def crowd(count: int = 500, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 4)) @ random.normal(size=(4, 4))


def test_a_distance_is_of_the_means_and_of_the_spreads() -> None:
    one = crowd()
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(one, one + np.array([3, 0, 4, 0])) == pytest.approx(25.0)
    spread = float(np.trace(np.cov(one.T)))
    about_0 = one - one.mean(axis=0)
    assert frechet_distance(about_0, 3 * about_0) == pytest.approx(4 * spread)


def test_a_distance_is_that_of_the_square_root_of_the_matrix() -> None:
    one, other = crowd(seed=1), crowd(seed=2) + 0.5
    first, second = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = np.square(one.mean(axis=0) - other.mean(axis=0)).sum()
    expected += np.trace(first + second - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected)


def test_of_too_few_frames_no_distance_is_given() -> None:
    one = crowd()
    assert measure_distance([one[:4]], [one]) == Distance(None, 4, 4)
    assert measure_distance([one], [one[:4]]) == Distance(None, 500, 4)
    found = measure_distance([one[:3], one[3:5]], [one[:5]])
    assert found == Distance(pytest.approx(0.0, abs=1e-6), 5, 4)


def results() -> Results:
    done = outcome(hit_rate=0.9, outside_psnr="identical")
    failed = Outcome(failed="no <room> on the GPU")
    return Results(
        presets=["paper", "instant"],
        facts={"options": "--base a.toml", "clip": None},
        cases=[
            CaseResults("a dog", True, True, {"paper": done, "instant": outcome(hit_rate=0.5)}),
            CaseResults("b", False, False, {"paper": outcome(hit_rate=0.8), "instant": failed}),
        ],
        distances={"paper": Distance(0.125, 98, 64), "instant": Distance(None, 49, 64)},
    )


def test_the_table() -> None:
    lines = as_markdown(results()).splitlines()
    assert lines[:2] == ["| | paper | instant |", "|---|---|---|"]
    assert "| Cases | 2 of 2 | 1 of 2 |" in lines
    assert "| Training, s | 30.0 | 30.0 |" in lines
    assert "| Hit rate ↑ | 0.850 | 0.500 (n 1) |" in lines, "of other cases: neither is the best"
    assert "| PSNR outside the mask ↑ | identical (n 1) | – |" in lines
    assert "| CLIP-FD to the sources ↓ | 0.1250 | too few frames (49 for 64 features) |" in lines
    assert lines[-1] == "- options: --base a.toml"


def test_the_results_for_programs() -> None:
    content = json.loads(json.dumps(as_json(results()), allow_nan=False))
    assert content["presets"]["paper"]["means"]["hit_rate"]["value"] == pytest.approx(0.85)
    assert content["presets"]["paper"]["means"]["outside_psnr"]["value"] == "identical"
    assert content["presets"]["instant"]["clip_fd"]["value"] is None
    assert [(run["case"], run["preset"], run["failed"]) for run in content["runs"]][2:] == [
        ("b", "paper", ""), ("b", "instant", "no <room> on the GPU"),
    ]  # fmt: skip


def test_the_page_shows_every_clip_by_a_relative_link() -> None:
    page = as_page(results())
    for name in ("source.mp4", "truth.mp4", "edited.png", "paper.mp4", "instant.mp4"):
        assert page.count(f'src="a%20dog/{name}"') == 1
    assert 'href="a%20dog/paper.html"' in page
    assert 'src="b/source.mp4"' not in page
    assert "failed: no &lt;room&gt; on the GPU" in page
    assert "a &lt;dog&gt;" in page
    assert "http" not in page


def test_a_wrong_line_is_refused_before_any_work(tmp_path: Path) -> None:
    home = tmp_path / "cases"
    with pytest.raises(UserError, match="no such folder"):
        Benchmark.of(home, tmp_path / "out", ["paper"], None, None, [])
    (home / "a").mkdir(parents=True)
    for presets, output, options, message in (
        (["no"], "out", [], "--preset no: no such method; .*instant"),
        (["paper", "own/paper.toml"], "out", [], "two of them have one name"),
        (["work.toml"], "out", [], "the benchmark uses this name"),
        (["a b.toml"], "out", [], "a name starts with a letter"),
        (["paper"], "cases/out", [], "the results go into a folder outside of it"),
        (["paper"], "out", ["--base", "no.toml"], "--base no.toml: no such file"),
        (["paper"], "out", ["--bass", "no.toml"], "unknown option --bass"),
    ):
        with pytest.raises(UserError, match=message):
            Benchmark.of(home, tmp_path / output, presets, None, None, options)
    assert not (tmp_path / "out").exists()


def write_case(folder: Path, colour: tuple[int, int, int], edited: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True)
    write_mp4(folder / "video.mp4", (draw_frame(n, colour) for n in range(FRAMES)), Fraction(16))
    write_mp4(folder / "truth.mp4", (draw_frame(n, edited) for n in range(FRAMES)), Fraction(16))
    write_png(folder / "edited.png", draw_frame(0, edited))
    write_png(folder / "reference.png", draw_frame(4, edited)[:96, :96])
    for name, text in {"box": "16,64,120,96", "caption": "a ball", "edited_caption": "it"}.items():
        (folder / f"{name}.txt").write_text(text)


Begin = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def begin(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Run presets over tmp_path/cases, every command in this process; the commands that it ran."""
    asked: list[str] = []

    def run(words: list[str], file: IO[bytes]) -> int:
        asked.append(words[0])
        logging.getLogger().handlers.clear()  # the command sets logging up for its own stderr
        result = CliRunner().invoke(app, [str(word) for word in words])
        file.write((result.stdout + result.stderr).encode())
        file.flush()
        return result.exit_code

    monkeypatch.setattr("research.benchmark.runs.run_maskora", run)
    settings = [
        f"model.path={tiny_model}", "model.dtype=float32", "optimizer.type=adamw",
        "motion.steps=1", "motion.window=5", "inference.steps=1", "inference.lossless=true",
    ]  # fmt: skip
    options = ["--frames", "5", "--size", "96x64"]
    options += [word for setting in settings for word in ("--set", setting)]

    def call(*presets: str, clip: Path | None = None) -> tuple[int, list[str]]:
        asked.clear()
        named = None if clip is None else str(clip)
        home, output = tmp_path / "cases", tmp_path / "out"
        return run_all(Benchmark.of(home, output, presets, named, None, options)), list(asked)

    return call


@pytest.mark.slow
def test_two_cases_by_two_presets(tmp_path: Path, begin: Begin) -> None:
    home, output, clip = tmp_path / "cases", tmp_path / "out", tmp_path / "clip"
    write_tiny_clip(clip)
    write_case(home / "a ball", (60, 120, 220), (230, 120, 30))
    write_case(home / "b", (200, 40, 40), (40, 180, 80))
    (home / "b" / "box.txt").write_text("nowhere")

    status, asked = begin("naive", "instant", "blend")
    each = ["train", "infer", "evaluate"]
    assert (status, asked) == (1, ["prepare", *each * 3])
    found = json.loads((output / "results.json").read_text())
    assert [run["failed"] for run in found["runs"]][:3] == [""] * 3
    assert "the box is written X,Y,W,H" in found["runs"][3]["failed"]
    assert found["presets"]["blend"]["cases"] == 1
    assert "done already" in (output / "a ball" / "blend.log").read_text(), "it trains as naive"
    assert found["runs"][0]["training"] == found["runs"][2]["training"] > 0
    assert found["runs"][1]["training"] == 0
    assert found["runs"][1]["means"]["outside_psnr"] == "identical"
    for name in ("source.mp4", "truth.mp4", "naive.mp4", "instant.mp4", "blend.mp4"):
        assert probe(output / "a ball" / name).frames == 5

    (home / "b" / "box.txt").write_text("16,64,120,96")
    assert begin("naive", "instant") == (0, ["prepare", *each * 2])
    assert begin("naive", "instant") == (0, [])

    shutil.rmtree(output / "b" / "work")  # what is done needs it no more
    status, asked = begin("naive", clip=clip)
    assert (status, asked) == (0, ["evaluate", "prepare", *each]), "but to be judged otherwise"
    found = json.loads((output / "results.json").read_text())
    assert found["presets"]["naive"]["means"]["reference_similarity"]["count"] == 2
    assert found["presets"]["naive"]["clip_fd"] == {"value": None, "frames": 10, "features": 16}

    write_png(home / "b" / "edited.png", draw_frame(0, (0, 0, 0)))
    status, asked = begin("naive", clip=clip)
    assert (status, asked) == (1, [])
    assert "was prepared from other files" in (output / "index.html").read_text()


def test_what_judges_a_case_does_not_make_it(tmp_path: Path) -> None:
    case = tmp_path / "case"
    write_case(case, (60, 120, 220), (230, 120, 30))
    before = [cases.digest_case(case, judging=judging) for judging in (False, True)]
    (case / "reference.png").unlink()
    after = [cases.digest_case(case, judging=judging) for judging in (False, True)]
    assert after[0] == before[0]
    assert after[1] != before[1]
    (case / "caption.txt").write_text("another")
    assert cases.digest_case(case, judging=False) != before[0]
