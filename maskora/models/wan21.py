"""Wan2.1 image-to-video (14B 480P and 720P, Fun-1.3B-InP) through diffusers' own classes.

The tensors follow diffusers' `WanImageToVideoPipeline`: 16 noisy channels, 4 mask channels and 16
condition channels; 512 text tokens padded with zeros; the second-to-last CLIP layer of the
reference picture, for both guidance branches.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor

from maskora.errors import UserError
from maskora.files import cache_home, digest
from maskora.models.base import ModelInputs, Transformer, Vae
from maskora.models.folder import check_parts, identity, read_json
from maskora.models.wan21_encoders import announce, autoencoder, image_encoder, text_encoder
from maskora.models.wan21_sizes import read_grid
from maskora.streaming.blocks import Precision, precise
from maskora.streaming.checkpoint import Checkpoint
from maskora.streaming.converted import FORMAT
from maskora.streaming.plan import RESIDENT, Placement
from maskora.streaming.supply import supply

WEIGHTS = ("transformer", "vae", "text_encoder", "image_encoder")
FILES = {
    "tokenizer": ("tokenizer.json", "spiece.model"),
    "image_processor": ("preprocessor_config.json", "processor_config.json"),
    "scheduler": ("scheduler_config.json",),
}
ATTENTION = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"blocks\.\d+\.ffn\.net\.(0\.proj|2)"


class Wan21:
    """One Wan2.1-I2V folder. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "wan2.1-i2v"

    def __init__(
        self, folder: Path, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        check_parts(folder, WEIGHTS, FILES)
        config = read_json(folder / "transformer" / "config.json")
        self.folder = folder
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.placement = placement
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

    def text_encoder(self) -> AbstractContextManager[Callable[[Sequence[str]], list[Tensor]]]:
        return text_encoder(self.folder, self.dtype, self.device)

    def image_encoder(self) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        return image_encoder(self.folder, self.device)

    def vae(self) -> AbstractContextManager[Vae]:
        return autoencoder(self.folder, self.placement.vae_tile, self.device)

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

        announce("transformer")
        folder = self.folder / "transformer"
        with init_empty_weights():
            transformer = WanTransformer3DModel.from_config(
                WanTransformer3DModel.load_config(folder)
            )
        transformer.requires_grad_(False).eval()
        weights = Checkpoint(folder)
        precision = precise(self.dtype, tuple(WanTransformer3DModel._keep_in_fp32_modules))
        transformer.supply = supply(
            transformer, transformer.blocks, weights, precision, self.placement, self.device,
            converted=self._converted(weights, precision),
        )  # fmt: skip
        return transformer

    def _converted(self, weights: Checkpoint, precision: Precision) -> Path | None:
        """The file of the blocks as they are used; None where the checkpoint has them so."""
        storage = self.placement.storage
        if storage == "same" and weights.is_in(precision):
            return None
        kind = str(self.dtype).removeprefix("torch.") if storage == "same" else storage
        name = digest(self.identity("transformer"), str(self.dtype), storage, FORMAT)
        return cache_home() / "weights" / f"{self.folder.name}-{kind}-{name}.safetensors"

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


def keep_cells(keep_THW: Tensor, cell: int) -> Tensor:
    """A pixel keep mask in cells: 1 only where the whole cell is kept; (T, h, w)."""
    return -F.max_pool2d(-keep_THW[:, None], cell)[:, 0]
