"""What inference tells the model, and that its settings reach the denoising."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskora.app import infer
from maskora.app.infer import Encoded
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.latents import TensorCache, encode_videos
from maskora.method.conditioning import to_unit
from maskora.models.registry import PromptInput, VideoModel, open_model
from tests.app.small import configured, small_clip, small_edit
from tests.streaming.driving import encoder

TOKEN, NEGATIVE = "s0me0ne", "blurred and overexposed"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> VideoModel:
    return open_model("wan2.1-i2v", tiny_model, "float32", "cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("ws"))


def settings(**inference: object) -> Config:
    return configured(
        prompt={"token": TOKEN, "caption": "a blue ball", "negative": NEGATIVE},
        inference={"steps": 3, "guidance": 1.0, **inference},
    )


def encoded(workspace: Workspace, model: VideoModel, **inference: object) -> Encoded:
    return infer.encode(workspace, settings(**inference), small_clip(), small_edit(), model)


def generated(model: VideoModel, told: Encoded, *seeds: int, **inference: object) -> list[Tensor]:
    return infer.generate(settings(**inference), model, told, [], list(seeds or [0]), float)


def test_the_words_are_the_token_with_the_edited_caption_and_the_negative_prompt(
    workspace: Workspace, model: VideoModel
) -> None:
    told = encoded(workspace, model)
    prompts = [f"{TOKEN} an orange ball", NEGATIVE, ""]
    with encoder(model, "text") as text:
        wanted, negative, empty = text(
            [PromptInput(prompt, torch.zeros(3, 8, 8)) for prompt in prompts]
        )
    assert torch.equal(told.sample.context["text"], wanted["text"])
    assert torch.equal(told.negative["text"], negative["text"])
    assert not torch.equal(told.negative["text"], empty["text"])


def test_the_picture_is_the_edited_first_frame(workspace: Workspace, model: VideoModel) -> None:
    first = to_unit(torch.from_numpy(small_edit().first.image_HWC)[None])[:, 0]
    with encoder(model, "image") as image:
        (expected,) = image([PromptInput("", first)])
    found = encoded(workspace, model).sample.context["image"]
    assert torch.equal(found, expected["image"])


def test_the_condition_is_the_mask_or_the_first_frame_alone(
    workspace: Workspace, model: VideoModel
) -> None:
    masked = encoded(workspace, model).sample.keep_THW
    assert masked[0].all()
    assert torch.equal(masked[1:], small_clip().keep()[1:])
    bare = encoded(workspace, model, conditioning="first-frame").sample.keep_THW
    assert bare[0].all()
    assert not bare[1:].any()


def test_the_latent_lock_keeps_the_source_and_leaves_latent_frame_0_free(
    workspace: Workspace, model: VideoModel
) -> None:
    clip = small_clip()
    told = encoded(workspace, model, lock="latent")
    (result,) = generated(model, told, lock="latent")
    (source,) = encode_videos([clip.video()], model, TensorCache(workspace.cache_dir))
    keep_THW = model.latent_keep(clip.keep())
    outside_first = keep_THW[0].bool().expand(result[:, 0].shape)
    later = keep_THW[1:].bool().expand(result[:, 1:].shape)
    assert told.lock is not None
    assert not told.lock.keep_THW[0].any()
    assert later.any()
    assert not later.all()
    assert torch.allclose(result[:, 1:][later], source[:, 1:][later], atol=1e-5)
    assert not torch.isclose(result[:, 1:][~later], source[:, 1:][~later], atol=1e-3).all()
    free = (result[:, 0] - source[:, 0])[outside_first].abs()
    assert free.median() > 1e-2, "latent frame 0 holds the edit, also outside the box"


@pytest.mark.parametrize("lock", ["pixel", "model"])
def test_the_other_locks_blend_nothing(workspace: Workspace, model: VideoModel, lock: str) -> None:
    assert encoded(workspace, model, lock=lock).lock is None


def test_the_shift_is_the_models_own_or_the_one_that_is_set(
    workspace: Workspace, model: VideoModel
) -> None:
    told = encoded(workspace, model)
    own, same, other = (generated(model, told, shift=shift)[0] for shift in ("model", 3.0, 1.0))
    assert torch.equal(own, same), "the tiny model's scheduler has a shift of 3"
    assert not torch.allclose(own, other, atol=1e-3)


def test_the_negative_prompt_works_through_guidance(
    workspace: Workspace, model: VideoModel
) -> None:
    told = encoded(workspace, model)
    silent = torch.zeros_like(told.negative["text"])
    other = replace(told, negative={**told.negative, "text": silent})
    assert torch.equal(generated(model, told)[0], generated(model, other)[0])
    with_words, without = (generated(model, e, guidance=5.0)[0] for e in (told, other))
    assert not torch.allclose(with_words, without, atol=1e-3)


def test_every_seed_has_latents_of_its_own_in_order(
    workspace: Workspace, model: VideoModel
) -> None:
    told = encoded(workspace, model)
    both = generated(model, told, 4, 9)
    assert len(both) == 2
    assert torch.equal(both[1], generated(model, told, 9)[0])
    assert not torch.allclose(both[0], both[1], atol=1e-3)
