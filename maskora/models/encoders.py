"""How text encoders, image encoders and VAEs are loaded and run, whichever base they belong to.

Each is loaded on entry and released on exit. The layers of text and image encoders pass through the
streaming engine, straight from their files; of word embeddings (1 to 2 GB at 16 bits) only the rows
of the prompts' own tokens are read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from maskora.models.base import Context, EncodePrompts, PromptInput, Vae
from maskora.models.building import (
    announce,
    as_bytes,
    build,
    check_words,
    released,
    without_prefix,
)
from maskora.models.checks import UNUSED_LAYERS
from maskora.models.files.source import Source
from maskora.streaming.blocks import precise
from maskora.streaming.checkpoint import Reader
from maskora.streaming.plan import Placement
from maskora.streaming.weights import stream_weights

# Every layer, one prompt after the other.
STREAMED = Placement(blocks_to_swap=1_000, weights="mapped", split_batch=True)
T5_WORDS = ("shared.weight", "encoder.embed_tokens.weight")


def on_meta(make: Callable[[], Any]) -> Any:
    """A frozen module whose parameters are not there yet; its buffers are."""
    with init_empty_weights():
        module = make()
    return module.requires_grad_(False).eval()


def padded(tokenizer: Any, texts: str | list[str], length: int) -> Any:
    """Tokens of texts, each cut or padded to a length: `input_ids` and `attention_mask` (B, L)."""
    return tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )


@contextmanager
def streamed(
    encode: EncodePrompts,
    module: nn.Module,
    layers: Sequence[nn.Module],
    weights: Reader,
    dtype: torch.dtype,
    device: torch.device,
    wide: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> Iterator[EncodePrompts]:
    """An encoder, while its module has its weights.

    Each layer is loaded once for all prompts, and computes them one after the other, so that what a
    prompt becomes does not depend on its company.

    Args:
        encode: computes with the module.
        layers: those of its modules that are streamed.
        wide: parts of it that compute in float32.
        skip: parameters that are not loaded.
        ignore: regular expressions of tensors that the files may have besides.

    Raises:
        UserError: the weights do not fit the module.
    """
    precision = precise(dtype, wide)
    supplied = stream_weights(
        module, layers, weights, precision, STREAMED, device, skip=skip, ignore=ignore
    )
    with closing(supplied):
        yield torch.no_grad()(encode)


@dataclass(frozen=True)
class TextModel:
    """A language model of transformers, of which states are used and nothing is generated.

    Attributes:
        module: built by `on_meta`.
        layers: those of its modules that are streamed.
        words: the parameters that are its word embeddings; the first that the files have counts.
        wide: parts of it that compute in float32.
        ignore: regular expressions of tensors that the files may have besides.
    """

    module: Any
    layers: Sequence[nn.Module]
    weights: Reader
    words: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    wide: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @property
    def _words(self) -> str:
        return next((name for name in self.words if name in self.weights.names()), self.words[0])

    def check(self, tokenizer: Any, folder: Path) -> None:
        """It knows every token of the tokenizer that lies in a folder. Raises UserError."""
        rows, width = self.module.get_input_embeddings().weight.shape
        check_words(self.weights, self._words, (rows, width), len(tokenizer), folder)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """The words' embeddings (B, L, D)."""
        rows = self.weights.read_rows(self._words, tokens_BL.flatten().tolist(), self.dtype)
        return rows.view(*tokens_BL.shape, -1).to(self.device)

    def states(self, tokens: Any, **options: Any) -> Tensor:
        """The last states (B, L, D), in host memory, of what a tokenizer gives."""
        states_BLD: Tensor = self.module(
            inputs_embeds=self.embed(tokens.input_ids),
            attention_mask=tokens.attention_mask.to(self.device),
            **options,
        ).last_hidden_state
        return states_BLD.cpu()

    def loaded(self, encode: EncodePrompts) -> AbstractContextManager[EncodePrompts]:
        """An encoder that computes with it, while it has its weights."""
        return streamed(
            encode, self.module, self.layers, self.weights, self.dtype, self.device,
            self.wide, self.words, self.ignore,
        )  # fmt: skip


def t5(module: Any, weights: Reader, dtype: torch.dtype, device: torch.device) -> TextModel:
    """An encoder of the T5 family, built by `on_meta`."""
    # transformers computes this layer in float32 where the rest is float16.
    wide = ("wo",) if dtype == torch.float16 else ()
    return TextModel(module.to(dtype), module.encoder.block, weights, T5_WORDS, dtype, device, wide)


def unused_layers(prefix: str, layers: Sequence[nn.Module]) -> tuple[str, ...]:
    """Regular expressions of the tensors of a language model's last layers, which are not built.

    Args:
        prefix: what comes before their names.
        layers: those that are built.
    """
    return tuple(rf"{prefix}layers\.{len(layers) + i}\..*" for i in range(UNUSED_LAYERS))


def prepared(processor: Any, picture_CHW: Tensor, **options: Any) -> Tensor:
    """A picture in [-1, 1] as a processor of transformers has it, a batch of one."""
    picture = as_bytes(picture_CHW).numpy()
    pixels_BCHW: Tensor = processor(picture, return_tensors="pt", **options).pixel_values
    return pixels_BCHW


def vision_tower(
    module: Any,
    source: Source,
    processor: Any,
    device: torch.device,
    look: Callable[[Tensor], Tensor],
    ignore: tuple[str, ...],
    **options: Any,
) -> AbstractContextManager[EncodePrompts]:
    """The part `image_encoder`, in float32: a picture -> {"image": its tokens (N, D)}.

    Args:
        module: built by `on_meta`.
        processor: of pictures; the PIL one, so that they do not depend on what is installed.
        look: pixels (1, 3, H, W) -> tokens (1, N, D), by the module.
        ignore: regular expressions of tensors that the file may have besides.
        options: for the processor.
    """
    weights = without_prefix(source.weights("image_encoder"), "vision_model.")

    def encode(prompts: Sequence[PromptInput]) -> Iterator[Context]:
        for item in prompts:
            pixels_BCHW = prepared(processor, item.picture_CHW, **options).to(device)
            yield {"image": look(pixels_BCHW)[0].cpu()}

    layers = module.encoder.layers
    return streamed(encode, module, layers, weights, torch.float32, device, ignore=ignore)


@contextmanager
def autoencoder(
    kind: Any,
    normalised: Callable[[Any], Vae],
    source: Source,
    tile: int | None,
    device: torch.device,
) -> Iterator[Vae]:
    """A video VAE of diffusers, whole or in square tiles that overlap by a quarter.

    Args:
        kind: its class.
        normalised: makes it a `Vae`.
        tile: edge of the tiles in pixels.
    """
    announce("VAE")
    config = source.config("vae")
    vae = build(lambda: kind.from_config(config), source.weights("vae"))
    if tile is not None:
        stride = tile * 3 // 4
        vae.enable_tiling(
            tile_sample_min_height=tile,
            tile_sample_min_width=tile,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )
    with released(vae):
        yield normalised(vae.to(device).eval())


class NormalisedVae:
    """A video VAE of diffusers whose latents go through a function on the way out and in."""

    def __init__(
        self, vae: Any, normalise: Callable[[Tensor], Tensor], restore: Callable[[Tensor], Tensor]
    ) -> None:
        self._vae, self._normalise, self._restore = vae, normalise, restore

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Tensor:
        video = video_CTHW[None].to(self._vae.device, torch.float32)
        return self._normalise(self._vae.encode(video).latent_dist.mode()[0])

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        latents = self._restore(latents_CTHW.to(self._vae.device, torch.float32))
        return self._vae.decode(latents[None], return_dict=False)[0][0]


def scaled(vae: Any) -> NormalisedVae:
    """A VAE whose latents are normalised by the one number in its configuration."""
    scale: float = vae.config.scaling_factor
    return NormalisedVae(vae, lambda latents: latents * scale, lambda latents: latents / scale)
