"""Pretraining from nothing, in little time."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import maskora.miniature
from maskora.errors import UserError
from research.miniature import pretrain, transformer
from research.miniature.autoencoder import autoencoder_part, build_autoencoder
from research.miniature.gate import BOXED, PLAIN, Score, Verdict
from research.miniature.pretrain import closing, pretrain_miniature
from research.miniature.training import Trainable, fit, read_losses
from research.miniature.transformer import CLIPS, Latents, build_transformer, transformer_part

UNSEEN_STEP = 10**9  # its batch is not trained on


def transformer_on_noise() -> Trainable:
    """The transformer with latents that need no autoencoder: each clip stands still."""
    generator = torch.Generator().manual_seed(0)
    latents = {}
    for frames in CLIPS:
        shape = (32, 16, (frames - 1) // 4 + 1, 16, 16)
        still = torch.randn(32, 16, 1, 16, 16, generator=generator).expand(shape).contiguous()
        condition = torch.cat([torch.zeros(32, 4, *shape[2:]), still], dim=1)
        latents[frames] = Latents(still, condition, condition)
    return transformer_part(build_transformer(0), latents, "boxes", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "factor"),
    [(lambda: autoencoder_part(build_autoencoder(0), 0), 0.8), (transformer_on_noise, 0.8)],
    ids=["autoencoder", "transformer"],
)
def test_half_a_minute_lowers_the_loss_on_an_unseen_batch(
    make: Callable[[], Trainable], factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer, "FRAMES_PER_BATCH", 16)  # the loss needs no large batches
    part = make()
    with torch.no_grad():
        before = part.loss(UNSEEN_STEP, 0.0).item()
    fit(part, 30.0, tmp_path)
    with torch.no_grad():
        after = part.loss(UNSEEN_STEP, 0.0).item()
    assert after < factor * before


@pytest.mark.slow
def test_the_command_makes_a_base_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "CASES", 3)
    folder = tmp_path / "mine"
    pretrain_miniature(folder, minutes=0.2, seed=0, resume=False, shown="boxes", start=None)
    assert "has NOT passed the gate" in capsys.readouterr().out.splitlines()[-1]
    record = json.loads((folder / "gate.json").read_text())
    assert record["passed"] is False, "so little time is not enough"
    assert (folder / "vae.png").exists()
    assert (folder / "transformer.png").exists()
    trained = {name: read_losses(folder / "training" / name) for name in LOSSES}
    with pytest.raises(UserError, match="--resume"):
        pretrain_miniature(folder, minutes=0.2, seed=0, resume=False, shown="boxes", start=None)
    pretrain_miniature(folder, minutes=0.2, seed=0, resume=True, shown="boxes", start=None)
    assert {name: read_losses(folder / "training" / name) for name in LOSSES} == trained
    assert json.loads((folder / "gate.json").read_text()) == record
    with pytest.raises(UserError, match="--seed 0"):
        pretrain_miniature(folder, minutes=0.2, seed=1, resume=True, shown="boxes", start=None)
    other = tmp_path / "other"
    pretrain_miniature(other, 0.05, 0, False, "first-frame", start=folder)
    assert _weights(other, "vae") == _weights(folder, "vae")
    assert _weights(other, "transformer") != _weights(folder, "transformer")
    assert not (other / "training" / "vae.jsonl").exists()
    with pytest.raises(UserError, match="--shown first-frame"):
        pretrain_miniature(other, 0.05, 0, True, "boxes", start=folder)


def test_a_start_of_other_sizes_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    shipped = Path(maskora.miniature.__file__).parent / "weights"
    other = Path(shutil.copytree(shipped, tmp_path / "other"))
    config = json.loads((other / "vae/config.json").read_text())
    (other / "vae/config.json").write_text(json.dumps({**config, "base_dim": 24}))
    for start, what in ((tmp_path, "no miniature"), (other, "another base_dim")):
        with pytest.raises(UserError, match=what):
            pretrain_miniature(tmp_path / "mine", 0.05, 0, False, "boxes", start=start)
        assert not (tmp_path / "mine").exists()


def _weights(folder: Path, part: str) -> bytes:
    return (folder / part / "diffusion_pytorch_model.safetensors").read_bytes()


LOSSES = ("vae.jsonl", "transformer.jsonl")


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf, 1e308])
def test_no_time_and_endless_time_are_refused(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(UserError, match=r"--minutes .* above 0"):
        pretrain_miniature(tmp_path / "mine", minutes, 0, False, "boxes", None)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 99999999999999999999])
def test_seeds_that_no_generator_takes_are_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UserError, match=rf"--seed {seed}: .* 0 to 4294967295"):
        pretrain_miniature(tmp_path / "mine", 1.0, seed, False, "boxes", None)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("hit", [0.9, 0.1])
def test_the_last_line_says_what_to_do_where_the_gate_is_not_passed(hit: float) -> None:
    score = Score(
        hit, strict=0.5, centroid=1.0, angle=9.0, inside_db=20.0, background_db=40.0, lasting=1.0
    )
    lines = closing(Path("mine"), 20.0, Verdict("boxes", 33.0, {PLAIN: score, BOXED: score}))
    last = "\n".join(lines).splitlines()[-1]
    if hit > 0.7:
        assert last.endswith(": passed")
    else:
        assert last.startswith("mine has NOT passed the gate")
        assert "a new folder with more than --minutes 20" in last
