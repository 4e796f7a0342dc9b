"""Our parts, put together as plain image-to-video, give what diffusers' own pipeline gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import HunyuanVideoImageToVideoPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from maskora import lora
from maskora.config.tables import Inference
from maskora.latents import TensorCache, encode_cues, encode_samples
from maskora.method.conditioning import Sample, inference_sample, motion_sample, to_unit
from maskora.models.registry import Context, Cue, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.training.loop import sample_loss
from tests.models import tiny_hunyuan

FAMILY = "hunyuan-video-i2v"
FRAMES, HEIGHT, WIDTH = 9, 64, 96
PROMPT, NEGATIVE = "p3rs0n  a caf\u00e9 & a man", "blurred, ugly"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hunyuan.write(tmp_path_factory.mktemp("models") / "hunyuan")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that embeds guidance."""
    path = tmp_path_factory.mktemp("models") / "distilled"
    return tiny_hunyuan.write(path, guidance_embeds=True)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain(clip: np.ndarray) -> Sample:
    video, keep = to_unit(torch.from_numpy(clip)), torch.zeros(FRAMES, HEIGHT, WIDTH)
    return inference_sample(video, keep, video[:, 0], "first-frame", PROMPT)


def pipeline(folder: Path, dtype: str = "float32") -> HunyuanVideoImageToVideoPipeline:
    pipe = HunyuanVideoImageToVideoPipeline.from_pretrained(folder, dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(folder: Path, plain: Sample, cache: Path, guidance: float) -> torch.Tensor:
    """The decoded frames in [0, 1], (3, T, H, W)."""
    model = open_model(FAMILY, folder, "float32", "cpu")
    (sample,) = encode_samples([plain], model, TensorCache(cache))
    cue = model.unwanted(Cue(PROMPT, plain.reference_CHW), NEGATIVE)
    (unwanted,) = encode_cues([cue], model, TensorCache(cache))
    noise = draw_noise((16, *sample.condition_CTHW.shape[1:]), seed=7)
    denoising = Denoising(model, sample, unwanted, noise, Inference(steps=4, guidance=guidance))
    denoising.advance(model.load_transformer())
    with model.vae() as vae:
        return (vae.decode(denoising.result()) / 2 + 0.5).clamp(0, 1)


def theirs(folder: Path, clip: np.ndarray, **options: float) -> torch.Tensor:
    """The pipeline's frames in [0, 1], (T - 4, 3, H, W): it cuts the first four off."""
    frames: torch.Tensor = pipeline(folder)(
        Image.fromarray(clip[0]), prompt=PROMPT, negative_prompt=NEGATIVE, height=HEIGHT,
        width=WIDTH, num_frames=FRAMES, num_inference_steps=4,
        generator=torch.Generator().manual_seed(7), output_type="pt", **options,
    ).frames[0]  # fmt: skip
    return frames


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_plain_image_to_video_equals_the_pipeline(
    folder: Path, tmp_path: Path, clip: np.ndarray, plain: Sample, guidance: float
) -> None:
    mine = ours(folder, plain, tmp_path, guidance)
    other = theirs(folder, clip, true_cfg_scale=guidance)
    assert mine.shape == (3, FRAMES, HEIGHT, WIDTH), "no frame is cut off"
    assert other.shape == (FRAMES - 4, 3, HEIGHT, WIDTH)
    assert other.std() > 0.05, "the comparison must be about a picture"
    assert (mine[:, 4:].transpose(0, 1) - other).abs().max() <= TOLERANCE


def test_a_base_that_embeds_guidance_is_told_the_number(
    distilled: Path, tmp_path: Path, clip: np.ndarray, plain: Sample
) -> None:
    mine = ours(distilled, plain, tmp_path, 6.0)
    other = theirs(distilled, clip, guidance_scale=6.0)
    assert (mine[:, 4:].transpose(0, 1) - other).abs().max() <= TOLERANCE
    assert (mine - ours(distilled, plain, tmp_path, 1.0)).abs().max() > TOLERANCE


def encoded(
    folder: Path, cache: Path, clip: np.ndarray, prompts: list[str], dtype: str = "float32"
) -> list[Context]:
    """What our encoders make of prompts, each with another frame of the clip."""
    video = to_unit(torch.from_numpy(clip))
    cues = [Cue(prompt, video[:, number]) for number, prompt in enumerate(prompts)]
    return encode_cues(cues, open_model(FAMILY, folder, dtype, "cpu"), TensorCache(cache))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_words_and_pictures_are_encoded_as_in_the_pipeline(
    folder: Path, tmp_path: Path, clip: np.ndarray, dtype: str
) -> None:
    """Of any length: the last one loses its end, and the template's with it."""
    pipe, prompts = pipeline(folder, dtype), [PROMPT, "", "b" * 60, "a long tale " * 80]
    lengths = []
    for number, mine in enumerate(encoded(folder, tmp_path, clip, prompts, dtype)):
        with torch.no_grad():
            text, pooled, mask = pipe.encode_prompt(Image.fromarray(clip[number]), prompts[number])
        assert (mine["text"] - text[0]).abs().max() <= TOLERANCE
        assert torch.equal(mine["text_mask"], mask[0])
        assert (mine["pooled"] - pooled[0]).abs().max() <= TOLERANCE
        assert mine["text"].shape == (540, 32)
        lengths.append(int(mine["text_mask"].sum()))
    assert lengths == [288 + 19 + 1, 288 + 1, 288 + 60 + 1, 540]


def test_what_comes_out_for_a_cue_does_not_depend_on_its_company(
    folder: Path, tmp_path: Path, clip: np.ndarray
) -> None:
    alone = encoded(folder, tmp_path / "alone", clip, [PROMPT])[0]
    first = encoded(folder, tmp_path / "many", clip, [PROMPT, "other words", NEGATIVE])[0]
    assert all(torch.equal(alone[name], first[name]) for name in alone)


def own_names(name: str) -> str:
    """The names of the modules of transformers 5."""
    moved = name.replace("language_model.model.", "language_model.")
    return "lm_head.weight" if "lm_head" in name else f"model.{moved}"


def old_names(name: str) -> str:
    """The names that older versions wrote."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")


@pytest.mark.parametrize("renamed", [own_names, old_names])
def test_llava_is_read_whichever_version_has_written_it(
    folder: Path, tmp_path: Path, clip: np.ndarray, renamed: Callable[[str], str]
) -> None:
    """The newer names, and the older ones with the configuration of their time."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights, config = (copy / "text_encoder" / n for n in ("model.safetensors", "config.json"))
    tensors = load_file(weights)
    changed = {renamed(name): tensor for name, tensor in tensors.items()}
    assert changed.keys() != tensors.keys()
    save_file(changed, weights, {"format": "pt"})
    told = json.loads(config.read_text())
    told["text_config"] |= {"rope_theta": 500.0}
    del told["text_config"]["rope_parameters"]
    config.write_text(json.dumps(told))
    (mine,) = encoded(copy, tmp_path / "cache", clip, [PROMPT])
    with torch.no_grad():
        text = pipeline(copy).encode_prompt(Image.fromarray(clip[0]), PROMPT)[0]
    assert (mine["text"] - text[0]).abs().max() <= TOLERANCE
    (other,) = encoded(folder, tmp_path / "other", clip, [PROMPT])
    assert (mine["text"] - other["text"]).abs().max() > TOLERANCE, "rope_theta counts"


@pytest.mark.parametrize("kind", ["folder", "distilled"])
def test_one_training_step_equals_a_reference_from_the_pipelines_pieces(
    kind: str, tmp_path: Path, clip: np.ndarray, request: pytest.FixtureRequest
) -> None:
    """The whole clip as one window, conditioned as plain image-to-video, through peft."""
    folder = request.getfixturevalue(kind)
    model, pipe = open_model(FAMILY, folder, "float32", "cpu"), pipeline(folder)
    video, keep = to_unit(torch.from_numpy(clip)), torch.zeros(FRAMES, HEIGHT, WIDTH)
    sample = motion_sample(video, keep, 0, FRAMES, "first-frame", PROMPT)
    (one,) = encode_samples([sample], model, TensorCache(tmp_path))
    noise, level = torch.randn(16, 3, 8, 12), torch.tensor([0.37])
    gradients, losses = [], []
    for transformer in (model.load_transformer(), pipe.transformer):
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), seed=5)
        if transformer is pipe.transformer:
            loss = reference_loss(pipe, clip, noise, level)
        else:
            loss = sample_loss(model, transformer, one, noise, level, inside_weight=1.0)
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in lora.trainable(transformer)])
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)
    assert len(gradients[0]) == 2 * 2 * (6 + 5)  # A and B, in two blocks of either kind
    for mine, other in zip(*gradients, strict=True):
        assert torch.allclose(mine, other, atol=TOLERANCE)


def reference_loss(
    pipe: HunyuanVideoImageToVideoPipeline,
    clip: np.ndarray,
    noise: torch.Tensor,
    level: torch.Tensor,
) -> torch.Tensor:
    """One step's loss, from the pipeline's own encoders."""
    first, scale = Image.fromarray(clip[0]), pipe.vae.config.scaling_factor
    with torch.no_grad():
        text, pooled, mask = pipe.encode_prompt(first, PROMPT)
        frames = pipe.video_processor.preprocess_video([Image.fromarray(f) for f in clip])
        data = pipe.vae.encode(frames).latent_dist.mode() * scale
        alone = pipe.vae.encode(frames[:, :, :1]).latent_dist.mode() * scale
    condition = F.pad(torch.cat([alone, torch.ones_like(alone[:, :1])], 1), (0, 0, 0, 0, 0, 2))
    answer = pipe.transformer(
        hidden_states=torch.cat([(1 - level) * data + level * noise[None], condition], dim=1),
        timestep=1000 * level,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        pooled_projections=pooled,
        guidance=torch.tensor([1000.0]),
        return_dict=False,
    )[0]
    return F.mse_loss(answer, noise[None] - data)
