"""Plain image-to-video of a clip's first frame, by our parts and by diffusers' pipelines."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskora.config.tables import Inference
from maskora.latents import TensorCache, encode_prompts, encode_samples
from maskora.method.conditioning import Sample, inference_sample, to_unit
from maskora.models.registry import PromptInput, VideoModel
from maskora.sampling import Denoising, draw_noise

SEED = 7


def plain_sample(clip: np.ndarray, prompt: str) -> Sample:
    """Of a clip (T, H, W, 3), of which nothing but the first frame is shown."""
    video = to_unit(torch.from_numpy(clip))
    return inference_sample(video, torch.zeros(clip.shape[:3]), video[:, :1], "first-frame", prompt)


def generated(
    model: VideoModel,
    clip: np.ndarray,
    cache: Path,
    prompt: str,
    negative: str = "",
    steps: int = 4,
    guidance: float = 1.0,
) -> Tensor:
    """Our frames in [0, 1], (T, 3, H, W), without a LoRA."""
    plain, tensors = plain_sample(clip, prompt), TensorCache(cache)
    (sample,) = encode_samples([plain], model, tensors)
    away = model.negative(PromptInput(prompt, plain.reference_CHW), negative)
    (context,) = encode_prompts([away], model, tensors)
    noise = draw_noise((model.latent_channels, *sample.condition_CTHW.shape[1:]), SEED)
    run = Denoising(model, sample, context, noise, Inference(steps=steps, guidance=guidance))
    taken = [run.advance(model.load_transformer(expert), expert) for expert in model.experts]
    assert all(taken), "every expert takes part"
    with model.vae() as vae:
        return (vae.decode(run.result()) / 2 + 0.5).clamp(0, 1).transpose(0, 1)


def lora_carriers(model: VideoModel, transformer: nn.Module) -> tuple[int, int]:
    """How many layers carry LoRA: in attention, and with the feed-forward layers; no other do."""
    linears = [n for n, m in transformer.named_modules() if isinstance(m, nn.Linear)]
    attention, more = (
        [name for name in linears if re.fullmatch(model.lora_targets(kind), name)]
        for kind in ("attention", "attention+ffn")
    )
    assert not any("add_" in name or "context" in name or "norm" in name for name in more)
    return len(attention), len(more)


def load_pipeline(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A pipeline of diffusers, which reports nothing."""
    pipe = kind.from_pretrained(folder, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipelines_own(pipe: Any, clip: np.ndarray, prompt: str, steps: int = 4, **how: Any) -> Tensor:
    """The frames in [0, 1], (T, 3, H, W), that a pipeline makes of the first one."""
    frames: Tensor = pipe(
        Image.fromarray(clip[0]), prompt=prompt, num_frames=len(clip), num_inference_steps=steps,
        generator=torch.Generator().manual_seed(SEED), output_type="pt", **how,
    ).frames[0]  # fmt: skip
    assert frames.std() > 0.05, "the comparison must be about a picture"
    return frames
