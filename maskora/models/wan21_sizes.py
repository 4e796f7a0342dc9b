"""What a Wan image-to-video base asks of memory, from its configuration files alone. No torch.

The transformer's largest sums of intermediate results are closed forms of four lengths: a block's
input h = tokens x width in the model's precision, its feed-forward width relative to the model's
(r), the text and image tokens, and the LoRA's rank. The coefficients were counted on diffusers'
block, tensor by tensor; the tests count again and compare. They hold for kernels as a card has
them: an attention that does not write its scores out, and RMS norms in one piece.
"""

from dataclasses import dataclass

from maskora.models.base import Grid
from maskora.models.checks import VisionTower
from maskora.models.files.source import Source
from maskora.models.sizes import ITEM, Encoder, dense_bytes, stored_bytes
from maskora.models.wan.checks import UMT5Encoder, WanTransformer, WanVae
from maskora.models.wan21_encoder_sizes import TEXT_TOKENS, ImageEncoder, TextEncoder, Vae
from maskora.models.wan21_transformer_sizes import Transformer

# A LoRA of rank r sits on 8 matrices of a block, with "attention+ffn" on 10.
LORA_MODULES = {"attention": 8, "attention+ffn": 10}
# Copies of the latents around the transformer: noisy, packed, answer, scheduler; in float32.
LATENT_COPIES = 10


@dataclass(frozen=True)
class Moment:
    """A moment at which a block's memory may peak: a + r b, in units of h.

    `widths` counts tensors of the feed-forward's width; `lora` how many more there are where the
    feed-forward carries LoRA, (a, b).
    """

    inputs: int
    widths: int
    lora: tuple[int, int] = (0, 0)

    def units(self, ratio: float, feed_forward_lora: bool) -> float:
        """How many inputs' worth of memory that is."""
        more = self.lora if feed_forward_lora else (0, 0)
        return self.inputs + more[0] + (self.widths + more[1]) * ratio


# The first is met in attention, the second in the feed-forward. 16-bit precisions compute norms,
# scales and gates in float32, so their peaks are more units, of half the size.
MOMENTS = {
    ("block", 2): (Moment(29, 1, (0, 1)), Moment(21, 3, (1, 1))),
    ("layer", 2): (Moment(18, 0), Moment(11, 3, (0, 1))),
    ("infer", 2): (Moment(10, 0), Moment(3, 2, (0, 1))),
    ("block", 4): (Moment(20, 1, (0, 1)), Moment(16, 3, (1, 1))),
    ("layer", 4): (Moment(13, 0), Moment(6, 3, (0, 1))),
    ("infer", 4): (Moment(9, 0), Moment(3, 2, (0, 1))),
}
# By how much less each is where there are no image tokens to attend to.
PICTURE_UNITS = {("block", 2): (2, 2), ("block", 4): (2, 2), ("infer", 4): (1, 0)}
CONTEXT_UNITS = {"block": 3, "layer": 1, "infer": 1}  # copies of the text and image tokens


class WanSizes:
    """One Wan base. See `maskora.models.sizes.Sizes` for what each method promises."""

    embeds_guidance = False

    def __init__(self, family: str, source: Source) -> None:
        self.grid = read_grid(source)
        self._transformer = Transformer.read(WanTransformer.of(source, "transformer"))
        self._text = TextEncoder.read(UMT5Encoder.of(source, "text_encoder"))
        sees_picture = self._transformer.image > 0
        self._image = (
            ImageEncoder.read(VisionTower.of(source, "image_encoder")) if sees_picture else None
        )
        self._vae = Vae.read(WanVae.of(source, "vae"))
        self.experts = 2 if family == "wan2.2-i2v" else 1
        if self.experts == 2 and "transformer_2" in source.parts():  # as large as the first
            WanTransformer.of(source, "transformer_2")
        self.parameters = {
            "transformer": self._transformer.count(),
            "text_encoder": self._text.count(),
            "vae": self._vae.count(),
        }
        if self._image is not None:
            self.parameters["image_encoder"] = self._image.count()
        layers, width = self._transformer.layers, self._transformer.width
        self.name = f"{family} {layers} x {width}"

    @staticmethod
    def read_grid(source: Source) -> Grid:
        return read_grid(source)

    def tokens(self, frames: int, width: int, height: int) -> int:
        edge = self.grid.multiple
        return self.grid.latent_frames(frames) * (width // edge) * (height // edge)

    def block_bytes(self, dtype: str, storage: str) -> tuple[int, ...]:
        one = stored_bytes(self._transformer.block(), dtype, storage)
        return (one,) * self._transformer.layers

    def other_bytes(self, dtype: str) -> int:
        return dense_bytes(self._transformer.others(), dtype) + self._transformer.tables()

    def scratch_bytes(self, dtype: str, storage: str) -> int:
        return 0 if storage == "same" else self._transformer.largest_matrix() * ITEM[dtype]

    def largest_matrix(self) -> int:
        return self._transformer.largest_matrix() * ITEM["float32"]

    def lora_parameters(self, rank: int, targets: str) -> int:
        width, inner = self._transformer.width, self._transformer.inner
        attention, feed_forward = 8 * 2 * width, 2 * (width + inner)
        sides = attention + (feed_forward if targets == "attention+ffn" else 0)
        return self._transformer.layers * rank * sides

    def input_bytes(self, dtype: str, tokens: int) -> int:
        return tokens * self._transformer.width * ITEM[dtype]

    def train_bytes(self, dtype: str, tokens: int, recompute: str, rank: int, targets: str) -> int:
        block = self.block_peak(recompute, dtype, tokens, 1, rank, targets)
        gradient = self.input_bytes(dtype, tokens)
        return block + gradient + self._around(dtype, tokens, 1)

    def infer_bytes(self, dtype: str, tokens: int, batch: int, split: bool, targets: str) -> int:
        one = self.input_bytes(dtype, tokens)
        at_once = 1 if split else batch
        # Running one sample after the other keeps the first ones' results meanwhile.
        waiting = (batch - at_once) * one
        block = self.block_peak("infer", dtype, tokens, at_once, 0, targets)
        return batch * one + waiting + block + self._around(dtype, tokens, batch)

    def block_peak(
        self, way: str, dtype: str, tokens: int, batch: int, rank: int, targets: str
    ) -> int:
        """A block's largest sum of intermediate results, without what it is given.

        Args:
            way: "block" or "layer" (recomputed with a graph), or "infer".
        """
        model, item = self._transformer, ITEM[dtype]
        feed_forward = targets == "attention+ffn"
        ratio = model.inner / model.width
        less = (0, 0) if self._image else PICTURE_UNITS.get((way, item), (0, 0))
        units = max(
            moment.units(ratio, feed_forward) - fewer
            for moment, fewer in zip(MOMENTS[way, item], less, strict=True)
        )
        low_rank = 0 if way == "infer" else LORA_MODULES[targets] * rank * tokens * item
        context = CONTEXT_UNITS[way] * self._context() * model.width * item
        return batch * (round(units * self.input_bytes(dtype, tokens)) + low_rank + context)

    def _around(self, dtype: str, tokens: int, batch: int) -> int:
        """What every block is given beside its input, and the latents around the transformer."""
        model = self._transformer
        rope = 2 * tokens * model.head * ITEM["float32"]
        context = batch * self._context() * model.width * ITEM[dtype]
        latents = batch * tokens * model.cells * model.outputs * ITEM["float32"]
        return rope + context + LATENT_COPIES * latents

    def _context(self) -> int:
        return TEXT_TOKENS + (self._image.tokens if self._image else 0)

    def encoders(self, dtype: str) -> dict[str, Encoder]:
        encoders = {"text encoder": self._text.memory(dtype)}
        if self._image is not None:
            encoders["image encoder"] = self._image.memory()
        return encoders

    def vae_bytes(self) -> int:
        return self.parameters["vae"] * ITEM["float32"]

    def vae_encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        return self._vae.encode_bytes(frames, width, height, tile)

    def vae_decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        return self._vae.decode_bytes(frames, width, height, tile)


def read_grid(source: Source) -> Grid:
    """The grid of a Wan checkpoint, from the configurations of its VAE and its transformer."""
    vae = WanVae.of(source, "vae")
    patch = WanTransformer.of(source, "transformer").patch_size[-1]
    return Grid(vae.cell, patch, vae.temporal)
