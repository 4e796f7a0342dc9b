"""Parameters and memory of HunyuanVideo's video VAE. Needs no torch.

It works through up to 17 frames at a time, whole or in square tiles. Its largest sums of
intermediate results are closed forms, counted on diffusers' class tensor by tensor; the tests count
again and compare.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log2

from maskora.models.hunyuan.checks import HunyuanVae
from maskora.models.sizes import ITEM, tiled_area

FLOAT = ITEM["float32"]
CHUNK = 17  # frames; longer clips are worked through in chunks that overlap
COLOURS = 3
# The causal mask of the attention in the middle: per pair of cells, a number and a truth value.
MASK_BYTES = 5


@dataclass(frozen=True)
class Vae:
    """`AutoencoderKLHunyuanVideo`, from vae/config.json; in float32.

    Attributes:
        widths: channels, from the pictures' size down to the latents'.
        layers: residual blocks per size of the encoder; the decoder has one more.
        cell: pixels per latent cell.
        temporal: frames per latent frame after the first.
        attends: whether the middle has an attention.
    """

    widths: tuple[int, ...]
    latents: int
    layers: int
    cell: int
    temporal: int
    attends: bool

    @classmethod
    def read(cls, told: HunyuanVae) -> "Vae":
        """From the part's configuration."""
        return cls(
            widths=tuple(told.block_out_channels),
            latents=told.latent_channels,
            layers=told.layers_per_block,
            cell=told.spatial_compression_ratio,
            temporal=told.temporal_compression_ratio,
            attends=told.mid_block_add_attention,
        )

    def count(self) -> int:
        """How many values it has."""
        means = 2 * self.latents
        quantisers = _conv(means, means, 1) + _conv(self.latents, self.latents, 1)
        down = self._levels(self.widths, self.layers)
        up = self._levels(self.widths[::-1], self.layers + 1)
        first, last = self.widths[0], self.widths[-1]
        ends = _conv(COLOURS, first) + 2 * last + _conv(last, means)
        starts = _conv(self.latents, last) + 2 * first + _conv(first, COLOURS)
        return quantisers + down + up + ends + starts + 2 * self._middle()

    def _levels(self, widths: tuple[int, ...], layers: int) -> int:
        total = 0
        for level, (before, after) in enumerate(pairwise((widths[0], *widths))):
            total += _residual(before, after) + (layers - 1) * _residual(after, after)
            total += _conv(after, after) if level < log2(self.cell) else 0
        return total

    def _middle(self) -> int:
        width = self.widths[-1]
        attention = 2 * width + 4 * _conv(width, width, 1) if self.attends else 0
        return 2 * _residual(width, width) + attention

    def encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """The largest sum while a clip is encoded; the clip itself is on the device.

        Met in the first residual blocks: four results and one with two frames more, for the causal
        convolution.
        """
        area, overlap = tiled_area(width, height, tile, self.cell)
        chunk = min(frames, CHUNK)
        clip = COLOURS * frames * width * height * FLOAT
        results = clip * 2 * self.latents // (COLOURS * self.temporal * self.cell**2)
        working = self.widths[0] * area * (5 * chunk + 2) * FLOAT
        return clip + round(overlap * results) + max(working, self._mask(chunk, area))

    def decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """The largest sum while a clip is decoded, the result included.

        Met where pictures reach their full size: what comes in at half of it, later frames
        enlarged, all frames enlarged, the same with two frames more, and convolved.
        """
        area, overlap = tiled_area(width, height, tile, self.cell)
        chunk = min(frames, CHUNK)
        clip = COLOURS * frames * width * height * FLOAT
        wide, wider = self.widths[1], self.widths[2]
        enlarged = wide * area * ((4 if chunk > 1 else 3) * chunk + 2)
        incoming = (wide + wider) * area // 4 * (chunk // 2 + 1)
        working = (enlarged + incoming) * FLOAT
        return round(overlap * clip) + max(working, self._mask(chunk, area))

    def _mask(self, frames: int, area: int) -> int:
        cells = (frames // self.temporal + 1) * area // self.cell**2
        return MASK_BYTES * cells**2 if self.attends else 0


def _conv(inputs: int, outputs: int, kernel: int = 27) -> int:
    return inputs * outputs * kernel + outputs


def _residual(before: int, after: int) -> int:
    shortcut = _conv(before, after, 1) if before != after else 0
    return 2 * before + _conv(before, after) + 2 * after + _conv(after, after) + shortcut
