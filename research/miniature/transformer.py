"""The miniature's transformer: `WanTransformer3DModel`, small, trained by rectified flow.

It learns from rendered clips as samples of the method, encoded once, each with two conditions: its
first frame alone (plain image-to-video), and everything outside a moving box around the sprite.
Boxes are made as `maskora prepare` makes them, of many widths. Seeds count up from 0.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from maskora.config.tables import Mask
from maskora.files import write_bytes
from maskora.masks.shapes import final_boxes, render_boxes
from maskora.method.conditioning import Sample, appearance_sample, motion_sample, to_unit
from maskora.method.objective import TIMESTEPS, draw_noise_level, mix, velocity
from maskora.miniature.world import RenderedClip, render
from maskora.models.base import Grid
from maskora.models.diffusers_base import grouped_cells
from research.miniature.autoencoder import LATENT_CHANNELS, encode
from research.miniature.scenes import draw_scene, sprite_boxes
from research.miniature.training import MuonAdamW, Trainable

GRID = Grid(cell=4, patch=2, temporal=4)
CLIPS = {1: 1600, 9: 5600, 13: 1120, 21: 800, 49: 320}  # frames -> how many
BATCH = 16
MARGINS = (0.05, 0.6)  # of the sprite's box: 1 to 15 pixels
MEASURED = 256  # clips from which the latents' mean and deviation are taken
WIDTH, HEADS, LAYERS, TEXT_DIM = 192, 3, 8, 16
MUON_LR, ADAMW_LR, SHIFT = 0.02, 1e-3, 3.0
FRAMES_PER_BATCH, LARGEST_BATCH = 64, 32  # latent frames, samples
# How often a batch is of a length (frames); shorter clips are the beginnings of longer ones.
LENGTHS = {1: 0.06, 5: 0.06, 9: 0.53, 13: 0.15, 21: 0.12, 49: 0.08}
BLOCK_MATRICES = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "net.0.proj", "net.2")


Shown = Literal["first-frame", "boxes"]  # what a base was taught to go by; with boxes half of it


class Latents(NamedTuple):
    """Encoded clips of one length, in half precision.

    Attributes:
        target_NCTHW: normalised latents.
        plain_NCTHW: mask and condition latents, packed as Wan's, of the first frame alone.
        boxed_NCTHW: the same of everything outside a moving box.
    """

    target_NCTHW: Tensor
    plain_NCTHW: Tensor
    boxed_NCTHW: Tensor


def draw_samples(frames: int, seeds: range) -> Iterator[tuple[Sample, Sample]]:
    """Every seed's clip, which has so many frames, as a plain and as a boxed sample."""
    for seed in seeds:
        clip = render(draw_scene(seed), frames)
        video_CTHW = to_unit(torch.from_numpy(clip.frames_THWC))
        keep_THW = draw_keep(clip, np.random.default_rng((seed, 1)))
        plain, boxed = (
            motion_sample(video_CTHW, keep_THW, 0, frames, how, "")
            for how in ("first-frame", "masked")
        )
        if frames == 1:  # the first frame would be given whole: nothing to paint
            first_CHW = video_CTHW[:, 0]
            boxed = appearance_sample(0, first_CHW, first_CHW, keep_THW[0], first_CHW, "masked", "")
        yield plain, boxed


def draw_keep(clip: RenderedClip, rng: np.random.Generator) -> Tensor:
    """The keep mask (T, H, W) of a box around the sprite in front: wide or narrow, calm or not."""
    size = clip.labels_THW.shape[1]
    boxes_NT4 = sprite_boxes(clip, int(clip.labels_THW.max()))[None]
    smooth, cell = (int(rng.choice(options)) for options in ((1, 5), (1, GRID.cell)))
    mask = Mask(margin=rng.uniform(*MARGINS), smooth=smooth)
    boxes_NT4 = final_boxes(boxes_NT4, mask, cell, size, size)
    return torch.from_numpy(render_boxes(boxes_NT4, (1,), size, size)[:] == 0).float()


@torch.inference_mode()
def measure_latents(vae: AutoencoderKLWan) -> tuple[list[float], list[float]]:
    """Mean and deviation of each latent channel over rendered clips."""
    seeds = range(MEASURED)
    latents = []
    for start in seeds[::BATCH]:
        batch = [plain for plain, _ in draw_samples(9, range(start, start + BATCH))]
        latents.append(encode(vae, _targets(batch).to(vae.device)))
    values_CN = torch.cat(latents).transpose(0, 1).flatten(1)
    return values_CN.mean(dim=1).tolist(), values_CN.std(dim=1).tolist()


def encode_set(vae: AutoencoderKLWan, folder: Path, share: float) -> dict[int, Latents]:
    """Encoded samples by their number of frames; what lies in `folder` is not encoded again.

    Args:
        share: of the clips; 1 takes all.
    """
    first, found = 0, {}
    for frames, clips in CLIPS.items():
        count = max(BATCH, round(share * clips / BATCH) * BATCH)
        path = folder / f"latents-{frames}.safetensors"
        if not path.exists():
            tensors = _encode_clips(vae, frames, range(first, first + count))
            write_bytes(path, save(tensors._asdict()))
        found[frames] = Latents(**load_file(path))
        first += clips
    return found


@torch.inference_mode()
def _encode_clips(vae: AutoencoderKLWan, frames: int, seeds: range) -> Latents:
    batches = []
    with tqdm(total=len(seeds), desc=f"latents of {frames} frames", unit="clip") as bar:
        for start in seeds[::BATCH]:
            plain, boxed = zip(*draw_samples(frames, range(start, start + BATCH)), strict=True)
            target = _normalised(vae, _targets(plain))
            batches.append((target, _condition(vae, plain), _condition(vae, boxed)))
            bar.update(BATCH)
    return Latents(*(torch.cat(each).half().contiguous() for each in zip(*batches, strict=True)))


def _condition(vae: AutoencoderKLWan, samples: Sequence[Sample]) -> Tensor:
    """Mask and condition latents (B, 4 + C, T', h, w)."""
    masks = torch.stack([grouped_cells(s.keep_THW, GRID).transpose(0, 1) for s in samples])
    shown = torch.stack([sample.condition_CTHW for sample in samples])
    return torch.cat([masks, _normalised(vae, shown)], dim=1)


def _targets(samples: Sequence[Sample]) -> Tensor:
    return torch.stack([s.target_CTHW for s in samples if s.target_CTHW is not None])


def _normalised(vae: AutoencoderKLWan, video_BCTHW: Tensor) -> Tensor:
    per_channel = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, device=vae.device).view(per_channel)
    deviation = torch.tensor(vae.config.latents_std, device=vae.device).view(per_channel)
    return ((encode(vae, video_BCTHW.to(vae.device)) - mean) / deviation).cpu()


def build_transformer(seed: int) -> WanTransformer3DModel:
    """With random weights: 36 input channels, no image tokens.

    The queries and keys of its cross-attention see one constant word, which makes them idle; they
    are not trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(
            num_attention_heads=HEADS,
            attention_head_dim=WIDTH // HEADS,
            in_channels=2 * LATENT_CHANNELS + 4,
            out_channels=LATENT_CHANNELS,
            text_dim=TEXT_DIM,
            freq_dim=128,
            ffn_dim=4 * WIDTH,
            num_layers=LAYERS,
        )
    for block in transformer.blocks:
        for idle in (block.attn2.to_q, block.attn2.to_k, block.attn2.norm_q, block.attn2.norm_k):
            idle.requires_grad_(False)
    return transformer


def transformer_part(
    transformer: WanTransformer3DModel,
    latents: dict[int, Latents],
    shown: Shown,
    seed: int,
    fused: bool = False,
) -> Trainable:
    """The transformer's training.

    Args:
        fused: compile it, once for each length of a clip.
    """
    device = next(transformer.parameters()).device
    forward = torch.compile(transformer, dynamic=False) if fused else transformer
    # On a CPU the plain kernel is the fastest backward for so few tokens.
    plain = [SDPBackend.MATH]
    kernels = plain if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, *plain]

    def loss(step: int, share: float) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch = draw_batch(latents, shown, generator)
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(kernels):
            return flow_loss(forward, batch, generator, device)

    matrices = [
        f"blocks.{index}.{'ffn.' * name.startswith('net')}{name}.weight"
        for index in range(LAYERS)
        for name in BLOCK_MATRICES
    ]
    return Trainable(
        "transformer", transformer, loss, MuonAdamW(transformer, matrices, MUON_LR, ADAMW_LR)
    )


def draw_batch(
    latents: dict[int, Latents], shown: Shown, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Targets and conditions of one length; the more frames, the fewer samples."""
    chances = torch.tensor(list(LENGTHS.values()))
    frames = list(LENGTHS)[int(torch.multinomial(chances, 1, generator=generator))]
    found = latents[min(length for length in latents if length >= frames)]
    latent_frames = (frames - 1) // 4 + 1
    size = min(LARGEST_BATCH, FRAMES_PER_BATCH // latent_frames)
    chosen = torch.randint(len(found.target_NCTHW), (size,), generator=generator)
    target, plain, boxed = (tensor[chosen, :, :latent_frames].float() for tensor in found)
    if shown == "first-frame":
        return target, plain
    half = torch.rand(size, 1, 1, 1, 1, generator=generator) < 0.5
    return target, torch.where(half, boxed, plain)


def flow_loss(
    transformer: Callable[..., Any],
    batch: tuple[Tensor, Tensor],
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """The mean squared error of the velocity of a batch, each sample at its own noise level."""
    data, condition = (tensor.to(device) for tensor in batch)
    size = len(data)
    noise = torch.randn(data.shape, generator=generator).to(device)
    levels = [draw_noise_level("uniform", SHIFT, generator) for _ in range(size)]
    level_B = torch.cat(levels).to(device)
    noisy = mix(data, noise, level_B.view(-1, 1, 1, 1, 1))
    answer = transformer(
        hidden_states=torch.cat([noisy, condition], dim=1),
        timestep=TIMESTEPS * level_B,
        encoder_hidden_states=data.new_zeros(size, 1, TEXT_DIM),
        return_dict=False,
    )[0]
    return F.mse_loss(answer.float(), velocity(data, noise))
