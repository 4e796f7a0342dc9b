"""Our parts, put together as plain image-to-video, give what diffusers' own pipelines give."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    ClassifierFreeGuidance,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideoImageToVideoPipeline,
    WanImageToVideoPipeline,
)
from PIL import Image
from torch import Tensor

from maskora import lora
from maskora.latents import TensorCache, encode_prompts, encode_samples
from maskora.method.conditioning import motion_sample, to_unit
from maskora.models.hunyuan15.encoders import INSTRUCTION
from maskora.models.registry import Context, PromptInput
from maskora.training.loop import sample_loss
from tests.models import tiny_hunyuan15
from tests.models.bases import FUN, HUNYUAN, HUNYUAN15, WAN, WAN22, opened
from tests.models.conftest import Tiny
from tests.models.plain import generated, load_pipeline, pipelines_own

PIPELINES: dict[str, Any] = {
    WAN: WanImageToVideoPipeline,
    FUN: WanImageToVideoPipeline,
    WAN22: WanImageToVideoPipeline,
    HUNYUAN: HunyuanVideoImageToVideoPipeline,
    HUNYUAN15: HunyuanVideo15ImageToVideoPipeline,
}
SIZE = {"height": 64, "width": 96}
PROMPT, NEGATIVE = "p3rs0n  a caf\u00e9 &amp; a man", "blurred, ugly"
QUOTED, PLAIN = 'p3rs0n  a café & a sign "Open \u201cdaily\u201d"', "a man walks"
TOLERANCE, EXACT = 1e-4, 1e-5


@functools.cache
def pipeline(folder: Path) -> Any:
    return load_pipeline(PIPELINES[folder.name], folder)


@pytest.mark.parametrize(
    ("family", "guidance", "steps"),
    [(WAN, 1, 4), (WAN, 5, 4), (FUN, 5, 4), (WAN22, 4, 8), (HUNYUAN, 5, 3)],
)
def test_plain_image_to_video_equals_the_pipeline(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray, family: str, guidance: float, steps: int
) -> None:
    folder = tiny(family)
    model = opened(folder)
    ours = generated(model, clip, tmp_path, PROMPT, NEGATIVE, steps, guidance)
    name = "true_cfg_scale" if family == HUNYUAN else "guidance_scale"
    theirs = pipelines_own(
        pipeline(folder), clip, PROMPT, steps, negative_prompt=NEGATIVE, **SIZE,
        **{name: guidance},
    )  # fmt: skip
    assert ours.shape == (9, 3, 64, 96), "no frame is cut off"
    assert len(theirs) == (5 if family == HUNYUAN else 9), "this pipeline cuts four off"
    assert (ours[-len(theirs) :] - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("guidance", "prompt", "negative"), [(6.0, QUOTED, PLAIN), (1.0, PLAIN, "")]
)
def test_so_does_hunyuan15s_whose_guider_and_size_are_its_own(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray, guidance: float, prompt: str, negative: str
) -> None:
    clip, folder = clip[:, :48, :80], tiny(HUNYUAN15)
    model, pipe = opened(folder), pipeline(folder)
    ours = generated(model, clip, tmp_path, prompt, negative, 3, guidance)
    pipe.guider = ClassifierFreeGuidance(guidance_scale=guidance)
    theirs = pipelines_own(pipe, clip, prompt, 3, negative_prompt=negative)
    assert ours.shape == (9, 3, 48, 80)
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_a_base_that_embeds_guidance_is_told_the_number(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray
) -> None:
    folder = tiny(HUNYUAN, guidance_embeds=True)
    model = opened(folder)
    six, one = (generated(model, clip, tmp_path, PROMPT, guidance=scale) for scale in (6.0, 1.0))
    theirs = pipelines_own(pipeline(folder), clip, PROMPT, guidance_scale=6.0, **SIZE)
    assert (six[4:] - theirs).abs().max() <= TOLERANCE
    assert (six - one).abs().max() > TOLERANCE


@pytest.mark.parametrize(
    ("family", "options", "targets", "modules"),
    [
        (WAN, {}, "attention", 2 * 2 * 4),  # q, k, v, o in two attentions of two blocks
        (HUNYUAN, {}, "attention+ffn", 2 * (6 + 5)),  # in two blocks of either kind
        (HUNYUAN, {"guidance_embeds": True}, "attention+ffn", 2 * (6 + 5)),
    ],
)
def test_one_training_step_equals_a_reference_from_the_pipelines_pieces(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray, family: str, options: dict[str, int],
    targets: str, modules: int,
) -> None:  # fmt: skip
    """The whole clip as one window, conditioned as plain image-to-video, through peft."""
    folder = tiny(family, **options)
    model, pipe = opened(folder), pipeline(folder)
    video, keep = to_unit(torch.from_numpy(clip)), torch.zeros(9, 64, 96)
    sample = motion_sample(video, keep, 0, 9, "first-frame", PROMPT)
    (window,) = encode_samples([sample], model, TensorCache(tmp_path))
    noise, level = torch.randn(16, 3, 8, 12), torch.tensor([0.37])
    transformer, reference = model.load_transformer(), pipe.transformer
    for one in (transformer, reference):
        lora.inject(one, 4, 4.0, model.lora_targets(targets), seed=5)
    ours = sample_loss(model, transformer, window, noise, level, inside_weight=1.0)
    theirs = (wan_loss if family == WAN else hunyuan_loss)(pipe, clip, noise, level)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=TOLERANCE)
    gradients = [[p.grad for p in lora.trainable(one)] for one in (transformer, reference)]
    assert len(gradients[0]) == 2 * modules  # A and B
    for mine, other in zip(*gradients, strict=True):
        assert torch.allclose(mine, other, atol=TOLERANCE)
    reference.delete_adapters("default")


def wan_loss(pipe: Any, clip: np.ndarray, noise: Tensor, level: Tensor) -> Tensor:
    """One step's loss, from the pipeline's own encoders and packing."""
    first = Image.fromarray(clip[0])
    with torch.no_grad():
        text, _ = pipe.encode_prompt(PROMPT, None, False, max_sequence_length=512)
        image = pipe.encode_image(first)
        pixels = pipe.video_processor.preprocess(first, **SIZE)
        _, condition = pipe.prepare_latents(
            pixels, 1, 16, 64, 96, 9, torch.float32, torch.device("cpu")
        )
        frames = pipe.video_processor.preprocess_video([Image.fromarray(f) for f in clip])
        config = pipe.vae.config
        mean = torch.tensor(config.latents_mean).view(-1, 1, 1, 1)
        std = torch.tensor(config.latents_std).view(-1, 1, 1, 1)
        data = (pipe.vae.encode(frames).latent_dist.mode() - mean) / std
    words = {"encoder_hidden_states": text, "encoder_hidden_states_image": image}
    return flow_loss(pipe, data, condition, noise, level, **words)


def flow_loss(
    pipe: Any, data: Tensor, condition: Tensor, noise: Tensor, level: Tensor, **words: Tensor
) -> Tensor:
    """Of the pipeline's transformer, between data and noise."""
    noisy = (1 - level) * data + level * noise[None]
    answer = pipe.transformer(
        hidden_states=torch.cat([noisy, condition], dim=1), timestep=1000 * level,
        return_dict=False, **words,
    )[0]  # fmt: skip
    return F.mse_loss(answer, noise[None] - data)


def hunyuan_loss(pipe: Any, clip: np.ndarray, noise: Tensor, level: Tensor) -> Tensor:
    """One step's loss, from the pipeline's own encoders."""
    first, scale = Image.fromarray(clip[0]), pipe.vae.config.scaling_factor
    with torch.no_grad():
        text, pooled, mask = pipe.encode_prompt(first, PROMPT)
        frames = pipe.video_processor.preprocess_video([Image.fromarray(f) for f in clip])
        data = pipe.vae.encode(frames).latent_dist.mode() * scale
        alone = pipe.vae.encode(frames[:, :, :1]).latent_dist.mode() * scale
    condition = F.pad(torch.cat([alone, torch.ones_like(alone[:, :1])], 1), (0, 0, 0, 0, 0, 2))
    return flow_loss(
        pipe, data, condition, noise, level, encoder_hidden_states=text,
        encoder_attention_mask=mask, pooled_projections=pooled, guidance=torch.tensor([1000.0]),
    )  # fmt: skip


def encoded(
    folder: Path, cache: Path, clip: np.ndarray, prompts: list[str], dtype: str = "float32"
) -> list[Context]:
    """What our encoders make of prompts, each with another frame of the clip."""
    video = to_unit(torch.from_numpy(clip))
    items = [PromptInput(prompt, video[:, number]) for number, prompt in enumerate(prompts)]
    return encode_prompts(items, opened(folder, dtype), TensorCache(cache))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hunyuans_words_and_pictures_are_encoded_as_in_the_pipeline(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray, dtype: str
) -> None:
    """Of any length: the last one loses its end, and the template's with it."""
    prompts = [PROMPT, "", "b" * 60, "a long tale " * 80]
    pipe = load_pipeline(PIPELINES[HUNYUAN], tiny(HUNYUAN), getattr(torch, dtype))
    lengths = []
    contexts = encoded(tiny(HUNYUAN), tmp_path, clip, prompts, dtype)
    for number, ours in enumerate(contexts):
        with torch.no_grad():
            text, pooled, mask = pipe.encode_prompt(Image.fromarray(clip[number]), prompts[number])
        assert (ours["text"] - text[0]).abs().max() <= TOLERANCE
        assert torch.equal(ours["text_mask"], mask[0])
        assert (ours["pooled"] - pooled[0]).abs().max() <= TOLERANCE
        assert ours["text"].shape == (540, 32)
        lengths.append(int(ours["text_mask"].sum()))
    assert lengths == [288 + 22 + 1, 288 + 1, 288 + 60 + 1, 540]


def test_hunyuan15s_encoders_give_what_the_pipeline_attends_to(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray
) -> None:
    pipe, prompts = pipeline(tiny(HUNYUAN15)), [QUOTED, PLAIN, ""]
    contexts = encoded(tiny(HUNYUAN15), tmp_path, clip, prompts)
    for number, (prompt, context) in enumerate(zip(prompts, contexts, strict=True)):
        picture = Image.fromarray(clip[number])
        image = pipe.encode_image(picture, 1, torch.device("cpu"), torch.float32)
        text, text_mask, glyphs, glyphs_mask = pipe.encode_prompt(prompt)
        assert context["text"].shape == (1000, tiny_hunyuan15.TEXT_DIM)
        assert context["glyphs"].shape == (256, tiny_hunyuan15.GLYPH_DIM)
        assert torch.equal(context["text_mask"], text_mask[0].bool())
        assert torch.equal(context["glyphs_mask"], glyphs_mask[0].bool())
        assert context["glyphs_mask"].any() == ("“" in prompt)
        for name, theirs in (("text", text[0]), ("glyphs", glyphs[0])):
            mask = context[f"{name}_mask"]
            assert (mask[:, None] * (context[name] - theirs)).abs().max() <= EXACT
            assert not context[name][~mask].any()
        assert (context["image"] - image[0]).abs().max() <= EXACT
    assert pipe.system_message == INSTRUCTION


@pytest.mark.parametrize("family", [WAN, HUNYUAN, HUNYUAN15])
def test_what_a_prompt_becomes_does_not_depend_on_its_company(
    tiny: Tiny, tmp_path: Path, clip: np.ndarray, family: str
) -> None:
    """Nor on the prompt before it."""
    folder, prompts = tiny(family), [QUOTED, PLAIN, NEGATIVE]
    alone = encoded(folder, tmp_path / "alone", clip, prompts[:1])[0]
    first = encoded(folder, tmp_path / "many", clip, prompts)[0]
    assert alone.keys() == first.keys()
    assert all(torch.equal(alone[name], first[name]) for name in alone)
