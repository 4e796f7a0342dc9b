"""Wan2.1 image-to-video (14B 480P and 720P, Fun-1.3B-InP) through diffusers' own classes.

The tensors follow diffusers' `WanImageToVideoPipeline`: 16 noisy channels, 4 mask channels and 16
condition channels; 512 text tokens padded with zeros; the second-to-last CLIP layer of the
reference picture, for both guidance branches.
"""

import gc
import html
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ftfy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.models.base import Grid, ModelInputs, Transformer, Vae
from maskora.models.folder import check_parts, identity, read_json, without_bars

TEXT_TOKENS = 512
WEIGHTS = ("transformer", "vae", "text_encoder", "image_encoder")
FILES = {
    "tokenizer": ("tokenizer.json", "spiece.model"),
    "image_processor": ("preprocessor_config.json", "processor_config.json"),
    "scheduler": ("scheduler_config.json",),
}
log = logging.getLogger("maskora")
ATTENTION = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"blocks\.\d+\.ffn\.net\.(0\.proj|2)"


def read_grid(folder: Path) -> Grid:
    """The grid of a Wan checkpoint, from vae/config.json and transformer/config.json."""
    vae = read_json(folder / "vae" / "config.json")
    patch = read_json(folder / "transformer" / "config.json").get("patch_size", [1, 2, 2])
    downsampling = vae.get("temperal_downsample", [False, True, True])
    if not (isinstance(patch, list) and len(patch) == 3 and all(patch)):
        raise UserError(f"{folder / 'transformer/config.json'}: patch_size is {patch!r}")
    return Grid(
        cell=vae.get("scale_factor_spatial", 2 ** len(downsampling)),
        patch=max(patch[1:]),
        temporal=vae.get("scale_factor_temporal", 2 ** sum(downsampling)),
    )


class Wan21:
    """One Wan2.1-I2V folder. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "wan2.1-i2v"

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        check_parts(folder, WEIGHTS, FILES)
        config = read_json(folder / "transformer" / "config.json")
        self.folder = folder
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.grid = read_grid(folder)
        self.latent_channels = int(config.get("out_channels", 16))
        expected = 2 * self.latent_channels + self.grid.temporal
        if config.get("in_channels") != expected or config.get("image_dim") is None:
            raise UserError(
                f"{folder}: its transformer takes {config.get('in_channels')} input channels"
                f"{'' if config.get('image_dim') else ' and no image tokens'}; Wan2.1 "
                f"image-to-video takes {expected} and image tokens. This looks like a "
                f"text-to-video or another Wan checkpoint: use Wan2.1-I2V-14B-480P."
            )

        if config.get("pos_embed_seq_len") is not None:
            raise UserError(
                f"{folder} is a first-and-last-frame checkpoint (pos_embed_seq_len is set), which "
                f"takes two pictures: use Wan2.1-I2V-14B-480P"
            )

    def identity(self, part: str) -> str:
        return identity(self.folder / part)

    @contextmanager
    def text_encoder(self) -> Iterator[Callable[[str], Tensor]]:
        from transformers import AutoTokenizer, UMT5EncoderModel

        _announce("text encoder")
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        encoder = UMT5EncoderModel.from_pretrained(self.folder / "text_encoder", dtype=self.dtype)
        encoder.to(self.device).eval()

        @torch.no_grad()
        def encode(prompt: str) -> Tensor:
            tokens = tokenizer(
                [clean(prompt)],
                padding="max_length",
                max_length=TEXT_TOKENS,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            text_LD = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
            text_LD[int(tokens.attention_mask.sum()) :] = 0
            return text_LD.cpu()

        with _released(encoder):
            yield encode

    @contextmanager
    def image_encoder(self) -> Iterator[Callable[[Tensor], Tensor]]:
        from transformers import CLIPImageProcessorPil, CLIPVisionModel

        _announce("image encoder")
        # The PIL processor on every machine, so that pictures do not depend on what is installed.
        processor = CLIPImageProcessorPil.from_pretrained(self.folder / "image_processor")
        encoder = CLIPVisionModel.from_pretrained(
            self.folder / "image_encoder", dtype=torch.float32
        )
        encoder.to(self.device).eval()

        @torch.no_grad()
        def encode(picture_CHW: Tensor) -> Tensor:
            picture = ((picture_CHW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pixels = processor(picture.cpu().numpy(), return_tensors="pt").pixel_values
            states = encoder(pixels.to(self.device), output_hidden_states=True).hidden_states
            return states[-2][0].cpu()

        with _released(encoder):
            yield encode

    @contextmanager
    def vae(self) -> Iterator[Vae]:
        from diffusers import AutoencoderKLWan

        _announce("VAE")
        vae = AutoencoderKLWan.from_pretrained(self.folder / "vae", torch_dtype=torch.float32)
        with _released(vae):
            yield WanVae(vae.to(self.device).eval())

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """Four mask channels per latent frame (the first frame four times), then the latents.

        A latent cell is kept only where every pixel that it covers is kept.
        """
        mask_CThw = self._grouped(keep_THW).transpose(0, 1)
        return torch.cat([mask_CThw.to(latents_CTHW), latents_CTHW])

    def latent_keep(self, keep_THW: Tensor) -> Tensor:
        return self._grouped(keep_THW).amin(dim=1)

    def _grouped(self, keep_THW: Tensor) -> Tensor:
        """Cells of the frames that each latent frame covers, (T', 4, h, w)."""
        cells_Thw = keep_cells(keep_THW, self.grid.cell)
        first = cells_Thw[:1].repeat_interleave(self.grid.temporal, dim=0)
        return torch.cat([first, cells_Thw[1:]]).unflatten(0, (-1, self.grid.temporal))

    def load_transformer(self) -> Transformer:
        from diffusers import WanTransformer3DModel

        _announce("transformer")
        transformer = WanTransformer3DModel.from_pretrained(
            self.folder / "transformer", torch_dtype=self.dtype
        )
        transformer.requires_grad_(False).eval()
        return transformer.to(self.device)

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        assert inputs.image_BND is not None
        packed = torch.cat([noisy_BCTHW, inputs.condition_BCTHW], dim=1)
        velocity: Tensor = transformer(
            hidden_states=packed.to(self.dtype),
            timestep=timestep_B,
            encoder_hidden_states=inputs.text_BLD.to(self.dtype),
            encoder_hidden_states_image=inputs.image_BND.to(self.dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    def scheduler(self, shift: float | None) -> Any:
        import diffusers

        config = read_json(self.folder / "scheduler" / "scheduler_config.json")
        kind = getattr(diffusers, config["_class_name"])
        if shift is not None:
            key = "flow_shift" if "flow_shift" in config else "shift"
            config = {**config, key: shift}
        return kind.from_config(config)

    def lora_targets(self, kind: str) -> str:
        return ATTENTION if kind == "attention" else f"({ATTENTION}|{FEED_FORWARD})"


class WanVae:
    """`AutoencoderKLWan` with latents normalised by the mean and deviation in its config."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        per_channel = (-1, 1, 1, 1)
        device = vae.device
        self._mean = torch.tensor(vae.config.latents_mean, device=device).view(per_channel)
        self._std = torch.tensor(vae.config.latents_std, device=device).view(per_channel)

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Tensor:
        video = video_CTHW[None].to(self._vae.device, torch.float32)
        return (self._vae.encode(video).latent_dist.mode()[0] - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        latents = latents_CTHW.to(self._vae.device, torch.float32) * self._std + self._mean
        return self._vae.decode(latents[None], return_dict=False)[0][0]


def keep_cells(keep_THW: Tensor, cell: int) -> Tensor:
    """A pixel keep mask in cells: 1 only where the whole cell is kept; (T, h, w)."""
    return -F.max_pool2d(-keep_THW[:, None], cell)[:, 0]


def clean(prompt: str) -> str:
    """Repair broken Unicode, undo HTML escapes and collapse white space, as in Wan's training."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def _announce(part: str) -> None:
    without_bars()
    log.info("loading the %s", part)


@contextmanager
def _released(part: nn.Module) -> Iterator[None]:
    """Free a part's memory on exit, whoever still refers to it."""
    try:
        yield
    finally:
        part.to("meta")
        gc.collect()
        torch.cuda.empty_cache()
