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

from maskora.errors import UserError
from maskora.models.base import Context, EncodePrompts, PromptInput, Vae
from maskora.models.building import (
    announce,
    as_bytes,
    fill,
    released,
    without_prefix,
)
from maskora.models.checks import UNUSED_LAYERS, reading_config, transformers_config
from maskora.models.files.model_files import ModelFiles
from maskora.streaming.blocks import Precision, precise
from maskora.streaming.placement import Placement
from maskora.streaming.tensor_files import Reader
from maskora.streaming.weights import stream_weights

# Every layer, one prompt after the other.
STREAMED = Placement(blocks_to_swap=1_000, weights="mapped", split_batch=True)
T5_WORDS = ("shared.weight", "encoder.embed_tokens.weight")


def on_meta(source: ModelFiles, part: str, make: Callable[[], Any]) -> Any:
    """A part's module, frozen, whose parameters are not there yet; its buffers are.

    Raises:
        UserError: its class cannot use the part's configuration.
    """
    with reading_config(source, part), init_empty_weights():
        module = make()
    return module.requires_grad_(False).eval()


def empty_model(source: ModelFiles, part: str, kind: Any, **settings: Any) -> Any:
    """A part of a class of transformers, as by `on_meta`; `settings` go before the file's."""
    config = transformers_config(kind.config_class, source, part, **settings)
    return on_meta(source, part, lambda: kind(config))


def padded(tokenizer: Any, texts: str | list[str], length: int) -> Any:
    """Tokens of texts, each cut or padded to a length: `input_ids` and `attention_mask` (B, L)."""
    return tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )


@dataclass(frozen=True)
class StreamedEncoder:
    """An encoder without weights, and how it is used.

    Attributes:
        title: for people.
        module: built by `on_meta`.
        layers: those of its modules that are streamed, in the order of computation.
        dtype: in which it computes, but for `wide`.
        longest: computes the longest prompt, or a picture, of any values on a device; its context.
        wide: parts of it that compute in float32.
        skip: parameters that are not loaded.
    """

    title: str
    module: Any
    layers: Sequence[nn.Module]
    dtype: torch.dtype
    longest: Callable[[torch.device], Context]
    wide: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @property
    def precision(self) -> Precision:
        """In which each of its parameters is computed."""
        return precise(self.dtype, self.wide)


def longest_states(
    module: Any, length: int, dtype: torch.dtype, device: torch.device, **options: Any
) -> Tensor:
    """The last states (L, D) that a language model makes of so many tokens, of any values."""
    width = module.get_input_embeddings().weight.shape[1]
    words_BLD = torch.empty(1, length, width, dtype=dtype, device=device)
    mask_BL = torch.ones(1, length, dtype=torch.int64, device=device)
    states = module(inputs_embeds=words_BLD, attention_mask=mask_BL, **options)
    states_LD: Tensor = states.last_hidden_state[0]
    return states_LD


def empty_pixels(config: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A picture for a vision tower, (1, 3, H, W), of any values."""
    return torch.empty(1, 3, config.image_size, config.image_size, dtype=dtype, device=device)


@contextmanager
def streamed(
    encode: EncodePrompts,
    built: StreamedEncoder,
    weights: Reader,
    device: torch.device,
    ignore: tuple[str, ...] = (),
) -> Iterator[EncodePrompts]:
    """An encoder, while its module has its weights.

    Each layer is loaded once for all prompts, and computes them one after the other, so that what a
    prompt becomes does not depend on its company.

    Args:
        encode: computes with the module.
        ignore: regular expressions of tensors that the files may have besides.

    Raises:
        UserError: the weights do not fit the module.
    """
    loaded = stream_weights(
        built.module, built.layers, weights, built.precision, STREAMED, device,
        skip=built.skip, ignore=ignore,
    )  # fmt: skip
    with closing(loaded):
        yield torch.no_grad()(encode)


@dataclass(frozen=True)
class TextModel:
    """A language model of transformers, of which states are used and nothing is generated.

    Attributes:
        built: what it skips are its word embeddings; the first that the files have counts.
        ignore: regular expressions of tensors that the files may have besides.
    """

    built: StreamedEncoder
    weights: Reader
    device: torch.device
    ignore: tuple[str, ...] = ()

    @property
    def _words(self) -> str:
        words = self.built.skip
        return next((name for name in words if name in self.weights.names()), words[0])

    def check(self, tokenizer: Any, folder: Path) -> None:
        """It knows every token of the tokenizer that lies in a folder. Raises UserError."""
        rows, width = self.built.module.get_input_embeddings().weight.shape
        self.weights.check(self._words, (rows, width))
        if len(tokenizer) > rows:
            raise UserError(
                f"{folder} has {len(tokenizer)} tokens, and {self.weights.description} knows "
                f"{rows}: they do not belong together"
            )

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """The words' embeddings (B, L, D)."""
        rows = self.weights.read_rows(self._words, tokens_BL.flatten().tolist(), self.built.dtype)
        return rows.view(*tokens_BL.shape, -1).to(self.device)

    def states(self, tokens: Any, **options: Any) -> Tensor:
        """The last states (B, L, D), in host memory, of what a tokenizer gives."""
        states_BLD: Tensor = self.built.module(
            inputs_embeds=self.embed(tokens.input_ids),
            attention_mask=tokens.attention_mask.to(self.device),
            **options,
        ).last_hidden_state
        return states_BLD.cpu()

    def loaded(self, encode: EncodePrompts) -> AbstractContextManager[EncodePrompts]:
        """An encoder that computes with it, while it has its weights."""
        return streamed(encode, self.built, self.weights, self.device, self.ignore)


def t5(
    title: str, module: Any, dtype: torch.dtype, length: int, context: Callable[[Tensor], Context]
) -> StreamedEncoder:
    """An encoder of the T5 family, built by `on_meta`.

    Args:
        length: of the longest prompt, in tokens.
        context: of a prompt's states (L, D).
    """
    # transformers computes this layer in float32 where the rest is float16.
    wide = ("wo",) if dtype == torch.float16 else ()
    module.to(dtype)

    def longest(device: torch.device) -> Context:
        return context(longest_states(module, length, dtype, device))

    return StreamedEncoder(title, module, module.encoder.block, dtype, longest, wide, T5_WORDS)


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


def build_vision_tower(
    source: ModelFiles, kind: Any, look: Callable[[Any, Tensor], Tensor], **settings: Any
) -> StreamedEncoder:
    """The part `image_encoder`, in float32.

    Args:
        kind: its class in transformers.
        look: the module and pixels (1, 3, H, W) -> tokens (1, N, D).
        settings: go before the file's.
    """
    tower = empty_model(source, "image_encoder", kind, **settings)

    def longest(device: torch.device) -> Context:
        return {"image": look(tower, empty_pixels(tower.config, torch.float32, device))[0]}

    return StreamedEncoder("image encoder", tower, tower.encoder.layers, torch.float32, longest)


def vision_tower(
    built: StreamedEncoder,
    source: ModelFiles,
    processor: Any,
    device: torch.device,
    look: Callable[[Any, Tensor], Tensor],
    ignore: tuple[str, ...],
    **options: Any,
) -> AbstractContextManager[EncodePrompts]:
    """What `build_vision_tower` has built: a picture -> {"image": its tokens (N, D)}.

    Args:
        processor: of pictures; the PIL one, so that they do not depend on what is installed.
        ignore: regular expressions of tensors that the file may have besides.
        options: for the processor.
    """
    weights = without_prefix(source.weights("image_encoder"), "vision_model.")

    def encode(prompts: Sequence[PromptInput]) -> Iterator[Context]:
        for item in prompts:
            pixels_BCHW = prepared(processor, item.picture_CHW, **options).to(device)
            yield {"image": look(built.module, pixels_BCHW)[0].cpu()}

    return streamed(encode, built, weights, device, ignore)


@contextmanager
def autoencoder(
    kind: Any,
    normalised: Callable[[Any], Vae],
    source: ModelFiles,
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
    config, weights = source.config("vae"), source.weights("vae")
    vae = fill(on_meta(source, "vae", lambda: kind.from_config(config)), weights)
    if tile is not None:
        stride = tile * 3 // 4
        vae.enable_tiling(
            tile_sample_min_height=tile,
            tile_sample_min_width=tile,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )
    with released(vae):
        yield normalised(vae.to(device))


class NormalisedVae:
    """A video VAE of diffusers whose latents go through a function on the way out and in."""

    def __init__(
        self, vae: Any, normalise: Callable[[Tensor], Tensor], restore: Callable[[Tensor], Tensor]
    ) -> None:
        self.module, self._normalise, self._restore = vae, normalise, restore

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Tensor:
        video = video_CTHW[None].to(self.module.device, torch.float32)
        return self._normalise(self.module.encode(video).latent_dist.mode()[0])

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        latents = self._restore(latents_CTHW.to(self.module.device, torch.float32))
        return self.module.decode(latents[None], return_dict=False)[0][0]


def scaled(vae: Any) -> NormalisedVae:
    """A VAE whose latents are normalised by the one number in its configuration."""
    scale: float = vae.config.scaling_factor
    return NormalisedVae(vae, lambda latents: latents * scale, lambda latents: latents / scale)
