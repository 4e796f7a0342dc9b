"""The weights that ship with maskora are what they are said to be."""

import json
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from maskora.hub import locate
from maskora.method.conditioning import to_bytes
from maskora.models.registry import open_model
from research.miniature.gate import BOXED, Score, Verdict, draw_case, encode_cases, generate, score
from research.miniature.pretrain import CASES, hashes, try_out

DOCS = Path(__file__).parents[3] / "docs" / "miniature.md"
LARGEST = 30_000_000  # bytes
EXPERIMENTS = Path(__file__).parents[3] / "research" / "miniature"


@pytest.fixture
def shipped() -> Path:
    return locate("miniature", Path())


def recorded(shipped: Path) -> Verdict:
    record = json.loads((shipped / "gate.json").read_text())
    scores = {name: Score(**each) for name, each in record["scores"].items()}
    return Verdict(record["shown"], record["reconstruction"], scores)


@pytest.fixture(params=["weights", "first-frame"])
def folder(request: pytest.FixtureRequest, shipped: Path) -> Path:
    """The one that ships, and the one that has never seen a box."""
    return shipped if request.param == "weights" else EXPERIMENTS / request.param


def test_it_is_small_and_unchanged(folder: Path) -> None:
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= LARGEST
    assert json.loads((folder / "gate.json").read_text())["sha256"] == hashes(folder)


def test_the_documents_tell_the_recorded_figures(folder: Path) -> None:
    verdict = recorded(folder)
    assert verdict.shown == ("first-frame" if folder.name == "first-frame" else "boxes")
    assert verdict.passed
    assert verdict.table() in DOCS.read_text()


def test_both_have_one_autoencoder(shipped: Path) -> None:
    first, second = hashes(EXPERIMENTS / "first-frame"), hashes(shipped)
    part = "vae/diffusion_pytorch_model.safetensors"
    assert first[part] == second[part]
    assert first != second


def test_an_edit_goes_through_encoding_denoising_and_decoding(shipped: Path) -> None:
    model = open_model("miniature", shipped, "float32", "cpu")
    case = draw_case(3)  # another hue: the source itself does not hit
    (sample,) = encode_cases([case], model, "masked")
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        latents = generate(model, transformer, sample, seed=0)
        again = generate(model, transformer, sample, seed=0)
        other = generate(model, transformer, sample, seed=1)
    assert torch.equal(latents, again)
    assert not torch.equal(latents, other)
    with model.vae() as vae:
        result_THWC = to_bytes(vae.decode(latents)).numpy()
    made, untouched = score(result_THWC, case), score(case.source_THWC, case)
    assert made.background_db > 30
    assert made.hit > untouched.hit


@pytest.mark.slow
def test_its_scores_are_measured_again(shipped: Path) -> None:
    was = recorded(shipped)
    now = try_out(shipped, "cpu", CASES, was.shown)
    assert now.passed == was.passed
    assert now.reconstruction == pytest.approx(was.reconstruction, abs=0.1)
    for name, scores in was.scores.items():
        for field in fields(Score):
            again = getattr(now.scores[name], field.name)
            assert again == pytest.approx(getattr(scores, field.name), rel=0.05, abs=0.02)
    assert now.scores[BOXED].hit > now.scores["base, plain I2V mask"].hit
