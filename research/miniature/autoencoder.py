"""The miniature's video autoencoder: `AutoencoderKLWan`, small, trained on rendered clips."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor

from maskora.method.conditioning import to_unit
from maskora.miniature.world import SIZE, render
from research.miniature.scenes import draw_scene, sprite_boxes
from research.miniature.training import MuonAdamW, Trainable, kernel_names

LATENT_CHANNELS = 16
MUON_LR, ADAMW_LR = 0.02, 2e-3
CROP, CROPPED = 32, 0.6  # pixels; share of the time in which clips are cropped
SQUARED = 5.0  # weight of the squared error beside the absolute one
LATENT_NOISE = 0.4  # of a channel's deviation, at most


def build_autoencoder(seed: int) -> AutoencoderKLWan:
    """With random weights: 4 pixels and 4 frames per latent cell, 16 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=16,
            z_dim=LATENT_CHANNELS,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            is_residual=True,
            scale_factor_temporal=4,
            scale_factor_spatial=4,
            latents_mean=[0.0] * LATENT_CHANNELS,
            latents_std=[1.0] * LATENT_CHANNELS,
        )
    return channels_last(vae)


def channels_last(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Lay kernels out as convolutions are fast with them; changes no result."""
    for parameter in vae.parameters():
        if layout := {4: torch.channels_last, 5: torch.channels_last_3d}.get(parameter.ndim):
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return vae


def autoencoder_part(vae: AutoencoderKLWan, seed: int) -> Trainable:
    """The autoencoder's training: crops around the sprite first, whole clips last."""
    device = next(vae.parameters()).device

    def loss(step: int, share: float) -> Tensor:
        rng = np.random.default_rng((seed, step))
        clips = cropped_clips(rng, 8) if share < CROPPED else whole_clips(rng, 4)
        video = clips.to(device)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        latents = disturbed(encode(vae, video), generator)
        with torch.autocast(device.type, torch.bfloat16):
            answer = decode_open(vae, latents)
        return reconstruction_loss(answer.float(), video)

    matrices = kernel_names(vae)
    return Trainable("vae", vae, loss, MuonAdamW(vae, matrices, MUON_LR, ADAMW_LR))


def cropped_clips(rng: np.random.Generator, count: int) -> Tensor:
    """Nine frames of unlimited new scenes, cropped to where the sprite is, (B, 3, T, h, w)."""
    return torch.stack([_crop(rng) for _ in range(count)])


def _crop(rng: np.random.Generator) -> Tensor:
    clip = render(draw_scene(int(rng.integers(2**31))))
    box_4 = sprite_boxes(clip, int(clip.labels_THW.max()))[int(rng.integers(len(clip.labels_THW)))]
    middle = (box_4[:2] + box_4[2:]) / 2 - CROP / 2 + rng.uniform(-8, 8, 2)
    left, top = middle.round().clip(0, SIZE - CROP).astype(int).tolist()
    frames = clip.frames_THWC[:, top : top + CROP, left : left + CROP]
    return to_unit(torch.from_numpy(frames))


def whole_clips(rng: np.random.Generator, count: int) -> Tensor:
    """Whole clips of new scenes, of 9 or 13 frames, (B, 3, T, H, W)."""
    frames = 9 if rng.random() < 0.5 else 13
    scenes = [draw_scene(int(rng.integers(2**31))) for _ in range(count)]
    return torch.stack([to_unit(torch.from_numpy(render(s, frames).frames_THWC)) for s in scenes])


def encode(vae: AutoencoderKLWan, video_BCTHW: Tensor) -> Tensor:
    """Raw latents (B, z, T', h, w), computed in bfloat16 where that is faster."""
    with torch.autocast(video_BCTHW.device.type, torch.bfloat16):
        latents: Tensor = vae.encode(video_BCTHW).latent_dist.mode()
    return latents.float()


def disturbed(latents_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    """Latents with noise, so that the decoder forgives a denoiser's errors.

    Half of the clips get none, the others up to `LATENT_NOISE` of each channel's deviation.
    """
    clips = len(latents_BCTHW)
    deviation = latents_BCTHW.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
    amount = LATENT_NOISE * (2 * torch.rand(clips, generator=generator) - 1).clamp(min=0)
    noise = torch.randn(latents_BCTHW.shape, generator=generator).to(deviation)
    return latents_BCTHW + amount.view(-1, 1, 1, 1, 1).to(deviation) * deviation * noise


def decode_open(vae: AutoencoderKLWan, latents_BCTHW: Tensor) -> Tensor:
    """The result of `vae.decode`, but not clamped, so that no gradient is lost."""
    latents = vae.post_quant_conv(latents_BCTHW)
    memory = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())

    def chunks() -> Iterator[Tensor]:
        for index in range(latents.shape[2]):
            chunk = latents[:, :, index : index + 1]
            yield vae.decoder(chunk, feat_cache=memory, feat_idx=[0], first_chunk=index == 0)

    return torch.cat(list(chunks()), dim=2)


def reconstruction_loss(answer_BCTHW: Tensor, video_BCTHW: Tensor) -> Tensor:
    """Absolute and squared error together, a scalar."""
    squared = F.mse_loss(answer_BCTHW, video_BCTHW)
    return F.l1_loss(answer_BCTHW, video_BCTHW) + SQUARED * squared
