"""The miniature: a Wan of a few million weights that ships with maskora.

Same classes, same packing, no picture and no words: its text is constantly zero, so a prompt has no
effect, and neither has guidance; LoRA leaves the attention to words alone. It knows one world, the
rendered one of `maskora.miniature`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from maskora.errors import UserError
from maskora.models.base import (
    Context,
    ContextEncoder,
    Cue,
    EncodeCues,
    Expert,
    ModelInputs,
    Transformer,
    Vae,
)
from maskora.models.checks import Settings, VisionTower, check_settings
from maskora.models.diffusers_base import DiffusersBase, grouped_cells
from maskora.models.files.source import Source
from maskora.models.wan.checks import (
    MINIATURE,
    WAN21,
    WAN22,
    UMT5Encoder,
    WanTransformer,
    WanVae,
    read_grid,
)
from maskora.models.wan.encoders import (
    autoencoder,
    build_image_encoder,
    build_text_encoder,
    image_encoder,
    text_encoder,
)
from maskora.models.wan.names import WAN
from maskora.streaming.placement import RESIDENT, Placement

TOKENIZER = ("tokenizer.json", "spiece.model")
IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
MASK_CHANNELS = 4
SCHEDULER = ("scheduler_config.json",)
ATTENTION = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"blocks\.\d+\.ffn\.net\.(0\.proj|2)"


class Wan21(DiffusersBase):
    """Wan2.1-I2V. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "wan2.1-i2v"
    transformer_class = WanTransformer3DModel
    names = WAN
    parts: tuple[str, ...] = (
        "transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "image_processor",
    )  # fmt: skip
    weights: tuple[str, ...] = ("transformer", "vae", "text_encoder", "image_encoder")
    files: dict[str, tuple[str, ...]] = {  # noqa: RUF012 - never changed
        "tokenizer": TOKENIZER,
        "image_processor": IMAGE_PROCESSOR,
        "scheduler": SCHEDULER,
    }
    settings: Mapping[str, type[Settings]] = WAN21
    sees_picture = True
    instead = "Wan2.1-I2V-14B-480P"

    def __init__(
        self, source: Source, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        super().__init__(source, dtype, device, placement)
        if "transformer" in source.parts():  # another kind of base lacks other parts, too
            self._check_kind(WanTransformer.of(source, "transformer"))
        source.check(self.weights, self.files)
        check_settings(source, self.settings)
        self.grid = read_grid(source)
        transformer = WanTransformer.of(source, "transformer")
        self.latent_channels = transformer.out_channels
        self._check_width("vae", WanVae.of(source, "vae").z_dim, transformer.out_channels)
        self._check_encoders(transformer)

    def _check_kind(self, transformer: WanTransformer) -> None:
        """The transformer takes what this family's do. Raises UserError."""
        expected = 2 * transformer.out_channels + MASK_CHANNELS
        sees_picture = transformer.image_dim is not None
        if transformer.in_channels != expected or sees_picture != self.sees_picture:
            raise UserError(
                f"{self.source.where}: its transformer takes {transformer.in_channels} input "
                f"channels and {'' if sees_picture else 'no '}image tokens; {self.family} takes "
                f"{expected} and {'' if self.sees_picture else 'no '}image tokens. This looks like "
                f"a text-to-video or another Wan checkpoint: use {self.instead}"
            )
        if transformer.pos_embed_seq_len is not None:
            raise UserError(
                f"{self.source.where} is a first-and-last-frame checkpoint (pos_embed_seq_len is "
                f"set), which takes two pictures: use {self.instead}"
            )

    def _check_encoders(self, transformer: WanTransformer) -> None:
        """Their tokens are as wide as the transformer takes them. Raises UserError."""
        text = UMT5Encoder.of(self.source, "text_encoder").d_model
        self._check_width("text_encoder", text, transformer.text_dim)
        if transformer.image_dim is not None:
            image = VisionTower.of(self.source, "image_encoder").hidden_size
            self._check_width("image_encoder", image, transformer.image_dim)

    def encoders(self) -> tuple[ContextEncoder, ...]:
        words = ContextEncoder(
            name="text",
            parts=("text_encoder", "tokenizer"),
            precision=str(self.dtype),
            load=partial(text_encoder, self.source, self.dtype, self.device),
            build=partial(build_text_encoder, self.source, self.dtype),
            reads_prompt=True,
        )
        pictures = ContextEncoder(
            name="image",
            parts=("image_encoder", "image_processor"),
            precision="float32",
            load=partial(image_encoder, self.source, self.device),
            build=partial(build_image_encoder, self.source),
            reads_picture=True,
        )
        return (words, pictures) if self.sees_picture else (words,)

    def vae(self) -> AbstractContextManager[Vae]:
        return autoencoder(self.source, self.placement.vae_tile, self.device)

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """Four mask channels per latent frame (the first frame four times), then the latents.

        A latent cell is kept only where every pixel that it covers is kept.
        """
        mask_CThw = grouped_cells(keep_THW, self.grid).transpose(0, 1)
        return torch.cat([mask_CThw.to(latents_CTHW), latents_CTHW])

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        packed = torch.cat([noisy_BCTHW, inputs.condition_BCTHW], dim=1)
        image = inputs.context.get("image")
        velocity: Tensor = transformer(
            hidden_states=packed.to(self.dtype),
            timestep=timestep_B,
            encoder_hidden_states=inputs.context["text"].to(self.dtype),
            encoder_hidden_states_image=None if image is None else image.to(self.dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    def lora_targets(self, kind: str) -> str:
        return ATTENTION if kind == "attention" else f"({ATTENTION}|{FEED_FORWARD})"


class WanFun(Wan21):
    """Wan2.1-Fun-1.3B-InP and its larger sibling."""

    family = "wan2.1-fun-inp"
    instead = "Wan2.1-Fun-1.3B-InP"

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        known = bool((keep_THW > 0).any())
        return super().pack_condition(
            keep_THW, latents_CTHW if known else torch.zeros_like(latents_CTHW)
        )


BOUNDARY = 0.9


class Wan22(Wan21):
    """Wan2.2-I2V-A14B. Each expert has a LoRA of its own."""

    family = "wan2.2-i2v"
    parts = ("transformer", "transformer_2", "vae", "text_encoder", "tokenizer")
    weights = ("transformer", "transformer_2", "vae", "text_encoder")
    files = {"tokenizer": TOKENIZER, "scheduler": SCHEDULER}  # noqa: RUF012 - never changed
    settings = WAN22
    sees_picture = False
    instead = "Wan2.2-I2V-A14B"

    def __init__(
        self, source: Source, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        super().__init__(source, dtype, device, placement)
        self._check_class(source.config("transformer_2").get("_class_name"))
        self._check_kind(WanTransformer.of(source, "transformer_2"))
        boundary = source.index().get("boundary_ratio", BOUNDARY)
        if not (isinstance(boundary, int | float) and 0 < boundary < 1):
            raise UserError(
                f"{source.where / 'model_index.json'}: boundary_ratio is {boundary!r}; it divides "
                f"the noise levels between the two transformers, so it lies between 0 and 1"
            )
        self.experts = (
            Expert("high", "transformer", lowest=boundary, highest=1.0),
            Expert("low", "transformer_2", lowest=0.0, highest=boundary),
        )


SELF_ATTENTION = r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"


class Miniature(Wan21):
    """The miniature. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "miniature"
    parts = ("transformer", "vae")
    weights = ("transformer", "vae")
    files = {"scheduler": SCHEDULER}  # noqa: RUF012 - never changed
    settings = MINIATURE
    sees_picture = False
    instead = "miniature"

    def _check_encoders(self, transformer: WanTransformer) -> None:
        """There is no encoder whose tokens could have another width."""

    def encoders(self) -> tuple[ContextEncoder, ...]:
        width = WanTransformer.of(self.source, "transformer").text_dim

        @contextmanager
        def no_words() -> Iterator[EncodeCues]:
            """Any cue -> {"text": one word of zeros, (1, width)}."""

            def encode(cues: Sequence[Cue]) -> list[Context]:
                return [{"text": torch.zeros(1, width)} for _ in cues]

            yield encode

        return (ContextEncoder("text", parts=(), precision=f"zero {width}", load=no_words),)

    def lora_targets(self, kind: str) -> str:
        return SELF_ATTENTION if kind == "attention" else f"({SELF_ATTENTION}|{FEED_FORWARD})"
