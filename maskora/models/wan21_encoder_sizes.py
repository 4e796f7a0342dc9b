"""Parameters and memory of Wan2.1's encoders: UMT5, CLIP and the video VAE. Needs no torch.

The parameters follow the classes of transformers and diffusers layer by layer. The largest sums of
intermediate results are closed forms whose coefficients were counted on the real classes, tensor by
tensor; the tests count again and compare.
"""

from dataclasses import dataclass
from itertools import pairwise

from maskora.models.checks import VisionTower
from maskora.models.sizes import (
    ITEM,
    Encoder,
    Parameter,
    count,
    dense_bytes,
    linear,
    stored_bytes,
    tiled_area,
)
from maskora.models.wan.checks import UMT5Encoder, WanVae

TEXT_TOKENS = 512
FLOAT = ITEM["float32"]
# Intermediate results of the VAE at their largest, in units of a chunk of frames at full size with
# `base_dim` channels. Encoding and decoding meet it in the residual blocks at full size.
# By whether its levels have shortcuts.
VAE_ENCODE_UNITS, VAE_DECODE_UNITS = {False: 9.2, True: 8.9}, {False: 12.7, True: 19.3}


@dataclass(frozen=True)
class TextEncoder:
    """UMT5's encoder, from text_encoder/config.json."""

    vocabulary: int
    width: int
    heads: int
    head_width: int
    inner: int
    layers: int
    buckets: int
    gated: bool

    @classmethod
    def read(cls, told: UMT5Encoder) -> "TextEncoder":
        """From the part's configuration."""
        return cls(
            vocabulary=told.vocab_size,
            width=told.d_model,
            heads=told.num_heads,
            head_width=told.d_kv,
            inner=told.d_ff,
            layers=told.num_layers,
            buckets=told.relative_attention_num_buckets,
            gated=told.gated,
        )

    def layer(self, dtype: str) -> list[Parameter]:
        """One layer's parameters; where the rest is float16, the last matrix is float32."""
        attention = self.heads * self.head_width
        ways_in = 2 if self.gated else 1
        return [
            *3 * linear(self.width, attention, bias=False),
            *linear(attention, self.width, bias=False),
            Parameter((self.buckets, self.heads)),
            *ways_in * linear(self.width, self.inner, bias=False),
            Parameter((self.width, self.inner), "float32" if dtype == "float16" else "linear"),
            *2 * [Parameter((self.width,))],
        ]

    def count(self) -> int:
        """How many values it has: the embedding of the vocabulary, the layers, the last norm."""
        return (
            self.vocabulary * self.width + self.layers * count(self.layer("float32")) + self.width
        )

    def memory(self, dtype: str) -> Encoder:
        """Streamed layer by layer; rows of the embedding are read from disk."""
        scores = 3 * self.heads * TEXT_TOKENS**2
        return Encoder(
            layer=stored_bytes(self.layer(dtype), dtype, "same"),
            others=self.width * ITEM[dtype],
            activations=(scores + 6 * TEXT_TOKENS * self.width) * ITEM[dtype],
            host=0,
        )


@dataclass(frozen=True)
class ImageEncoder:
    """CLIP's vision tower, from image_encoder/config.json."""

    width: int
    inner: int
    layers: int
    patch: int
    image: int

    @classmethod
    def read(cls, told: VisionTower) -> "ImageEncoder":
        """From the part's configuration."""
        return cls(
            width=told.hidden_size,
            inner=told.intermediate_size,
            layers=told.num_hidden_layers,
            patch=told.patch_size,
            image=told.image_size,
        )

    @property
    def tokens(self) -> int:
        """Tokens of one picture: its patches, and one for the whole."""
        return (self.image // self.patch) ** 2 + 1

    def layer(self) -> list[Parameter]:
        """One layer's parameters."""
        return [
            *4 * linear(self.width, self.width),
            *linear(self.width, self.inner),
            *linear(self.inner, self.width),
            *4 * [Parameter((self.width,))],
        ]

    def others(self) -> list[Parameter]:
        """The parameters outside the layers."""
        return [
            Parameter((self.width,)),
            Parameter((self.width, 3, self.patch, self.patch)),
            Parameter((self.tokens, self.width)),
            *4 * [Parameter((self.width,))],
        ]

    def count(self) -> int:
        """How many values it has."""
        return count(self.others()) + self.layers * count(self.layer())

    def memory(self) -> Encoder:
        """In float32, streamed from host memory; the states of all layers are kept."""
        states = (self.layers + 3) * self.tokens * self.width
        layer = stored_bytes(self.layer(), "float32", "same")
        return Encoder(
            layer=layer,
            others=dense_bytes(self.others(), "float32"),
            activations=(states + 3 * self.tokens * self.inner) * FLOAT,
            host=self.layers * layer,
        )


@dataclass(frozen=True)
class Vae:
    """`AutoencoderKLWan`, from vae/config.json; in float32.

    Attributes:
        patch: its first and last convolution see patches of so many pixels.
        skips: its levels have shortcuts, and do not halve their width on the way up.
    """

    base: int
    decoder_base: int
    latents: int
    multiples: tuple[int, ...]
    residuals: int
    temporal: tuple[bool, ...]
    cell: int
    chunk: int
    patch: int
    skips: bool

    @classmethod
    def read(cls, told: WanVae) -> "Vae":
        """From the part's configuration."""
        base = told.base_dim
        return cls(
            base=base,
            decoder_base=told.decoder_base_dim or base,
            latents=told.z_dim,
            multiples=tuple(told.dim_mult),
            residuals=told.num_res_blocks,
            temporal=tuple(told.temperal_downsample),
            cell=told.cell,
            chunk=told.temporal,
            patch=told.patch_size or 1,
            skips=told.is_residual,
        )

    def count(self) -> int:
        """How many values it has."""
        quantisers = _conv(2 * self.latents, 2 * self.latents) + _conv(self.latents, self.latents)
        return self._encoder() + self._decoder() + quantisers

    def _encoder(self) -> int:
        widths = [self.base * multiple for multiple in (1, *self.multiples)]
        total = _conv(3 * self.patch**2, widths[0], 27)
        for level, (before, width) in enumerate(pairwise(widths)):
            total += _residuals(before, width, self.residuals)
            if level < len(self.temporal):
                total += _conv(width, width, 9)
                total += _conv(width, width, 3) if self.temporal[level] else 0
        return total + _middle(widths[-1]) + widths[-1] + _conv(widths[-1], 2 * self.latents, 27)

    def _decoder(self) -> int:
        widths = [self.decoder_base * m for m in (self.multiples[-1], *reversed(self.multiples))]
        total = _conv(self.latents, widths[0], 27) + _middle(widths[0])
        rising, narrowing = self.temporal[::-1], 1 if self.skips else 2
        for level, (before, width) in enumerate(pairwise(widths)):
            total += _residuals(before // narrowing if level else before, width, self.residuals + 1)
            if level < len(rising):
                total += _conv(width, width // narrowing, 9)
                total += _conv(width, 2 * width, 3) if rising[level] else 0
        return total + widths[-1] + _conv(widths[-1], 3 * self.patch**2, 27)

    def encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """The largest sum while a clip is encoded; the clip itself is on the device."""
        area, overlap = tiled_area(width, height, tile, self.cell)
        clip = 3 * frames * width * height * FLOAT
        results = clip * 2 * self.latents // (3 * self.chunk * self.cell**2)
        working = self._chunks(self.base, frames, area, VAE_ENCODE_UNITS[self.skips])
        clip *= 1 if self.patch == 1 else 2  # its patches are a copy
        return clip + working + round(overlap * results)

    def decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """The largest sum while a clip is decoded: in a tile, or while tiles are joined."""
        area, overlap = tiled_area(width, height, tile, self.cell)
        clip = 3 * frames * width * height * FLOAT
        working = self._chunks(self.decoder_base, frames, area, VAE_DECODE_UNITS[self.skips])
        joining = 3 * clip if tile is not None else 0
        return round(overlap * clip) + max(working, joining)

    def _chunks(self, base: int, frames: int, area: int, units: float) -> int:
        return round(units * min(frames, self.chunk) * base * area // self.patch**2 * FLOAT)


def _conv(inputs: int, outputs: int, kernel: int = 1) -> int:
    return inputs * outputs * kernel + outputs


def _residual(before: int, after: int) -> int:
    shortcut = _conv(before, after) if before != after else 0
    return before + _conv(before, after, 27) + after + _conv(after, after, 27) + shortcut


def _residuals(before: int, after: int, blocks: int) -> int:
    return _residual(before, after) + (blocks - 1) * _residual(after, after)


def _middle(width: int) -> int:
    attention = width + _conv(width, 3 * width) + _conv(width, width)
    return 2 * _residual(width, width) + attention
