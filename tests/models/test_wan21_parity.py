"""Our parts, put together as plain image-to-video, give what diffusers' own pipeline gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
)
from PIL import Image

from maskora import lora
from maskora.config.tables import Inference
from maskora.latents import TensorCache, encode_cues, encode_samples
from maskora.method.conditioning import Sample, inference_sample, motion_sample, to_unit
from maskora.models.registry import Cue, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.training.loop import sample_loss

FRAMES, HEIGHT, WIDTH = 9, 64, 96
PROMPT, NEGATIVE = "p3rs0n  a caf\u00e9 &amp; a man", "blurred, ugly"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> WanImageToVideoPipeline:
    pipe = WanImageToVideoPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_sample(clip: np.ndarray) -> Sample:
    video = to_unit(torch.from_numpy(clip))
    keep = torch.zeros(FRAMES, HEIGHT, WIDTH)
    return inference_sample(video, keep, video[:, 0], "first-frame", PROMPT)


@pytest.mark.parametrize(
    ("family", "guidance"), [("wan2.1-i2v", 1.0), ("wan2.1-i2v", 5.0), ("wan2.1-fun-inp", 5.0)]
)
def test_plain_image_to_video_equals_the_pipeline(
    tiny_model: Path,
    tmp_path: Path,
    clip: np.ndarray,
    pipeline: WanImageToVideoPipeline,
    family: str,
    guidance: float,
) -> None:
    model = open_model(family, tiny_model, "float32", "cpu")
    cache = TensorCache(tmp_path)
    plain = plain_sample(clip)
    (sample,) = encode_samples([plain], model, cache)
    (unwanted,) = encode_cues(
        [model.unwanted(Cue(PROMPT, plain.reference_CHW), NEGATIVE)], model, cache
    )
    noise = draw_noise((16, *sample.condition_CTHW.shape[1:]), seed=7)
    denoising = Denoising(model, sample, unwanted, noise, Inference(steps=4, guidance=guidance))
    denoising.advance(model.load_transformer())
    with model.vae() as vae:
        ours = (vae.decode(denoising.result()) / 2 + 0.5).clamp(0, 1)
    theirs = pipeline(
        Image.fromarray(clip[0]),
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).frames[0]
    assert ours.shape == (3, FRAMES, HEIGHT, WIDTH)
    assert theirs.std() > 0.05, "the comparison must be about a picture"
    assert (ours.transpose(0, 1) - theirs).abs().max() <= TOLERANCE


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
OTHERS = {"shift": 3.0, "flow_shift": 3.0}  # one of the two is another class's


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (UniPCMultistepScheduler, FLOW),
        (UniPCMultistepScheduler, FLOW | OTHERS),
        (FlowMatchEulerDiscreteScheduler, {}),
        (FlowMatchEulerDiscreteScheduler, FLOW | OTHERS),
    ],
)
def test_the_shift_reaches_either_scheduler(
    tiny_model: Path, tmp_path: Path, kind: type, config: dict[str, Any]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": kind.__name__, **config}))
    model = open_model("wan2.1-i2v", folder, "float32", "cpu")
    levels = {}
    for shift in (1.0, 5.0):
        scheduler = model.scheduler(4, shift)
        assert isinstance(scheduler, kind)
        levels[shift] = scheduler.sigmas[1].item()
    s = levels[1.0]
    assert levels[5.0] == pytest.approx(5 * s / (1 + 4 * s), rel=0.02)


def test_one_training_step_equals_a_reference_from_the_pipelines_pieces(
    tiny_model: Path, tmp_path: Path, clip: np.ndarray, pipeline: WanImageToVideoPipeline
) -> None:
    """The whole clip as one window, conditioned as plain image-to-video, through peft."""
    model = open_model("wan2.1-i2v", tiny_model, "float32", "cpu")
    video = to_unit(torch.from_numpy(clip))
    sample = motion_sample(
        video, torch.zeros(FRAMES, HEIGHT, WIDTH), 0, FRAMES, "first-frame", PROMPT
    )
    (encoded,) = encode_samples([sample], model, TensorCache(tmp_path))
    transformer = model.load_transformer()
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), seed=5)
    noise, level = torch.randn(encoded.target_CTHW.shape), torch.tensor([0.37])
    ours = sample_loss(model, transformer, encoded, noise, level, inside_weight=1.0)
    ours.backward()

    reference = pipeline.transformer
    lora.inject(reference, 4, 4.0, model.lora_targets("attention"), seed=5)
    theirs = reference_loss(pipeline, clip, noise, level)
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=TOLERANCE)
    gradients = [[p.grad for p in lora.trainable(one)] for one in (transformer, reference)]
    assert len(gradients[0]) == 2 * 2 * 4 * 2  # A and B of q, k, v, o in two attentions, 2 blocks
    for mine, other in zip(*gradients, strict=True):
        assert torch.allclose(mine, other, atol=TOLERANCE)
    reference.delete_adapters("default")


def reference_loss(
    pipeline: WanImageToVideoPipeline, clip: np.ndarray, noise: torch.Tensor, level: torch.Tensor
) -> torch.Tensor:
    """One step's loss, from the pipeline's own encoders and packing."""
    first = Image.fromarray(clip[0])
    with torch.no_grad():
        text, _ = pipeline.encode_prompt(PROMPT, None, False, max_sequence_length=512)
        image = pipeline.encode_image(first)
        pixels = pipeline.video_processor.preprocess(first, height=HEIGHT, width=WIDTH)
        _, condition = pipeline.prepare_latents(
            pixels, 1, 16, HEIGHT, WIDTH, FRAMES, torch.float32, torch.device("cpu")
        )
        frames = pipeline.video_processor.preprocess_video([Image.fromarray(f) for f in clip])
        mean = torch.tensor(pipeline.vae.config.latents_mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(pipeline.vae.config.latents_std).view(1, -1, 1, 1, 1)
        data = (pipeline.vae.encode(frames).latent_dist.mode() - mean) / std
    noisy = (1 - level) * data + level * noise[None]
    answer = pipeline.transformer(
        hidden_states=torch.cat([noisy, condition], dim=1),
        timestep=1000 * level,
        encoder_hidden_states=text,
        encoder_hidden_states_image=image,
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(answer, noise[None] - data)
