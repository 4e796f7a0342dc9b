"""Parameters and memory of HunyuanVideo-1.5's video autoencoder. Needs no torch.

The parameters follow diffusers' class layer by layer. All frames of a tile pass at once; the
largest sum of intermediate results is met in a residual block at full size, and was counted on the
real class, tensor by tensor; the tests count again and compare.
"""

from dataclasses import dataclass

from maskora.models.hunyuan15.checks import Hunyuan15Vae
from maskora.models.sizes import ITEM

FLOAT = ITEM["float32"]
KERNEL = 27
# Tiles overlap by a quarter: a tile begins every three quarters of its edge.
STRIDE = (3, 4)


@dataclass(frozen=True)
class Vae:
    """`AutoencoderKLHunyuanVideo15`, from vae/config.json; in float32."""

    latents: int
    widths: tuple[int, ...]
    residuals: int
    cell: int
    temporal: int
    matched: tuple[bool, bool]

    @classmethod
    def read(cls, told: Hunyuan15Vae) -> "Vae":
        """From the part's configuration."""
        return cls(
            latents=told.latent_channels,
            widths=tuple(told.block_out_channels),
            residuals=told.layers_per_block,
            cell=told.spatial_compression_ratio,
            temporal=told.temporal_compression_ratio,
            matched=(
                told.downsample_match_channel,
                told.upsample_match_channel,
            ),
        )

    def count(self) -> int:
        """How many values it has."""
        return self._encoder() + self._decoder()

    def half(self) -> int:
        """How many the larger half has, encoder or decoder: one of them is loaded at a time."""
        return max(self._encoder(), self._decoder())

    def _encoder(self) -> int:
        halvings = self.cell.bit_length() - 1
        later = (self.cell // self.temporal).bit_length() - 1  # from here on time is halved, too
        total, before = _conv(3, self.widths[0], KERNEL), self.widths[0]
        for level, width in enumerate(self.widths):
            total += _residuals(before, width, self.residuals)
            before = width
            if level < halvings:
                before = self.widths[level + 1] if self.matched[0] else width
                total += _conv(width, before // (8 if level >= later else 4), KERNEL)
        last = self.widths[-1]
        return total + _middle(last) + last + _conv(last, 2 * self.latents, KERNEL)

    def _decoder(self) -> int:
        widths = self.widths[::-1]
        doublings, earlier = self.cell.bit_length() - 1, self.temporal.bit_length() - 1
        total, before = _conv(self.latents, widths[0], KERNEL) + _middle(widths[0]), widths[0]
        for level, width in enumerate(widths):
            total += _residuals(before, width, self.residuals + 1)
            before = width
            if level < doublings:
                before = widths[level + 1] if self.matched[1] else width
                total += _conv(width, before * (8 if level < earlier else 4), KERNEL)
        return total + widths[-1] + _conv(widths[-1], 3, KERNEL)

    def encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """The largest sum while a clip is encoded; the clip itself is on the device."""
        area, overlap = self._tiles(width, height, tile)
        clip = 3 * frames * width * height * FLOAT
        results = clip * 2 * self.latents // (3 * self.temporal * self.cell**2)
        return clip + self._residual_bytes(frames, area) + round(overlap * results)

    def decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """The largest sum while a clip is decoded: in a tile, or while tiles are joined."""
        area, overlap = self._tiles(width, height, tile)
        clip = 3 * frames * width * height * FLOAT
        working = self._residual_bytes(frames, area)
        if tile is None:
            return working
        return round(overlap * clip) + max(working, 2 * clip)

    def _residual_bytes(self, frames: int, area: int) -> int:
        """Six tensors at full size; or five, one of them padded by two frames in time."""
        return max(6 * frames, 5 * frames + 2) * self.widths[0] * area * FLOAT

    def _tiles(self, width: int, height: int, tile: int | None) -> tuple[int, float]:
        """A tile's area in pixels, and all tiles' area relative to the picture's."""
        if tile is None or (width <= tile and height <= tile):
            return width * height, 1.0
        covered = _covered(width, tile) * _covered(height, tile)
        return min(width, tile) * min(height, tile), covered / (width * height)


def _covered(length: int, tile: int) -> int:
    """The sum of the tiles' lengths along one side."""
    stride = tile * STRIDE[0] // STRIDE[1]
    return sum(min(tile, length - start) for start in range(0, length, stride))


def _conv(inputs: int, outputs: int, kernel: int = 1) -> int:
    return inputs * outputs * kernel + outputs


def _residual(before: int, after: int) -> int:
    shortcut = _conv(before, after) if before != after else 0
    return before + _conv(before, after, KERNEL) + after + _conv(after, after, KERNEL) + shortcut


def _residuals(before: int, after: int, blocks: int) -> int:
    return _residual(before, after) + (blocks - 1) * _residual(after, after)


def _middle(width: int) -> int:
    attention = width + 4 * _conv(width, width)
    return 2 * _residual(width, width) + attention
