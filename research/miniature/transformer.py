"""The miniature's transformer: `WanTransformer3DModel`, small, trained by rectified flow."""

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from maskora.method.objective import TIMESTEPS, draw_noise_level, mix, velocity
from research.miniature.autoencoder import LATENT_CHANNELS
from research.miniature.fitting import Part
from research.miniature.latent_set import Latents
from research.miniature.optimizer import MuonAdamW

WIDTH, HEADS, LAYERS, TEXT_DIM = 256, 4, 8, 16
MUON_LR, ADAMW_LR, SHIFT = 0.02, 1e-3, 3.0
FRAMES_PER_BATCH, LARGEST_BATCH = 96, 48  # latent frames, samples
# How often a batch is of a length (frames); shorter clips are the beginnings of longer ones.
LENGTHS = {1: 0.1, 5: 0.1, 9: 0.6, 13: 0.15, 21: 0.05}
BLOCK_MATRICES = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "net.0.proj", "net.2")


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
    transformer: WanTransformer3DModel, latents: dict[int, Latents], seed: int
) -> Part:
    """How the transformer is trained."""
    device = next(transformer.parameters()).device
    # On a CPU the plain kernel is the fastest backward for so few tokens.
    plain = [SDPBackend.MATH]
    kernels = plain if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, *plain]

    def loss(step: int, share: float) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch = draw_batch(latents, generator)
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(kernels):
            return flow_loss(transformer, batch, generator, device)

    matrices = [
        f"blocks.{index}.{'ffn.' * name.startswith('net')}{name}.weight"
        for index in range(LAYERS)
        for name in BLOCK_MATRICES
    ]
    return Part(
        "transformer", transformer, loss, MuonAdamW(transformer, matrices, MUON_LR, ADAMW_LR)
    )


def draw_batch(latents: dict[int, Latents], generator: torch.Generator) -> Latents:
    """A batch of one length by lot; the more frames, the fewer samples."""
    chances = torch.tensor(list(LENGTHS.values()))
    frames = list(LENGTHS)[int(torch.multinomial(chances, 1, generator=generator))]
    found = latents[min(length for length in latents if length >= frames)]
    latent_frames = (frames - 1) // 4 + 1
    size = min(LARGEST_BATCH, FRAMES_PER_BATCH // latent_frames)
    chosen = torch.randint(len(found.target_NCTHW), (size,), generator=generator)
    return Latents(*(tensor[chosen, :, :latent_frames].float() for tensor in found))


def flow_loss(
    transformer: WanTransformer3DModel,
    batch: Latents,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """The mean squared error of the velocity of a batch, each sample at its own noise level."""
    size = len(batch.target_NCTHW)
    noise = torch.randn(batch.target_NCTHW.shape, generator=generator).to(device)
    levels = [draw_noise_level("uniform", SHIFT, generator) for _ in range(size)]
    level_B = torch.cat(levels).to(device)
    data, condition = (tensor.to(device) for tensor in batch)
    noisy = mix(data, noise, level_B.view(-1, 1, 1, 1, 1))
    answer = transformer(
        hidden_states=torch.cat([noisy, condition], dim=1),
        timestep=TIMESTEPS * level_B,
        encoder_hidden_states=data.new_zeros(size, 1, TEXT_DIM),
        return_dict=False,
    )[0]
    return F.mse_loss(answer.float(), velocity(data, noise))
