"""What HunyuanVideo-1.5 asks of memory, from its configuration files alone. No torch.

A block carries two streams, video and context, so its largest sums of intermediate results are
closed forms of two lengths. The coefficients were counted on diffusers' block, tensor by tensor;
the tests count again and compare. They hold for a feed-forward of four times the model's width (all
published ones), and for an attention that does not write its scores out, as a card has it.

The context counts in full, as if every prompt had 1000 tokens and 256 more in quotes: the padding
is left out when the prompts are known (see `hunyuan15_attention`), which takes less than planned.
"""

from maskora.models.base import Grid
from maskora.models.checks import T5Encoder
from maskora.models.files.source import Source
from maskora.models.hunyuan15 import checks as settings
from maskora.models.hunyuan15_encoder_sizes import (
    GLYPH_TOKENS,
    TEXT_TOKENS,
    GlyphEncoder,
    ImageEncoder,
    TextEncoder,
)
from maskora.models.hunyuan15_transformer_sizes import Transformer
from maskora.models.hunyuan15_vae_sizes import Vae
from maskora.models.sizes import ITEM, Encoder, dense_bytes, stored_bytes

# A LoRA of rank r sits on 4 matrices of a block, with "attention+ffn" on 6; in float32.
LORA_MODULES = {"attention": 4, "attention+ffn": 6}
# Copies of the latents around the transformer: noisy, packed, answer, scheduler; in float32.
LATENT_COPIES = 10
# Copies of the context before the first block: as embedded, in its order, and what is left of both.
CONTEXT_COPIES = 3

# The moments at which a block's memory may peak, in tokens' worth of its input (video, context),
# by how it is computed, the bytes per value and the targets: in the feed-forward of the one stream,
# in the joint attention, in the feed-forward of the other.
MOMENTS = {
    ("block", 2, "attention"): ((25, 13), (18, 24)),
    ("layer", 2, "attention"): ((20, 13), (17, 17), (12, 19)),
    ("infer", 2, "attention"): ((11, 4), (4, 11)),
    ("block", 4, "attention"): ((21, 9), (14, 20)),
    ("layer", 4, "attention"): ((16, 4), (13, 13), (5, 16)),
    ("infer", 4, "attention"): ((11, 3), (4, 11)),
    ("block", 2, "attention+ffn"): ((30, 13), (23, 24)),
    ("layer", 2, "attention+ffn"): ((20, 13), (17, 17), (12, 19)),
    ("infer", 2, "attention+ffn"): ((15, 3), (4, 11)),
    ("block", 4, "attention+ffn"): ((26, 9), (19, 20)),
    ("layer", 4, "attention+ffn"): ((20, 4), (13, 13), (5, 16)),
    ("infer", 4, "attention+ffn"): ((15, 3), (4, 11)),
}


class Hunyuan15Sizes:
    """HunyuanVideo-1.5 I2V. See `maskora.models.sizes.Sizes` for what each method promises."""

    experts = 1
    embeds_guidance = False

    def __init__(self, family: str, source: Source) -> None:
        self.grid = read_grid(source)
        self._transformer = Transformer.read(
            settings.Hunyuan15Transformer.of(source, "transformer")
        )
        self._text = TextEncoder.read(settings.Qwen.of(source, "text_encoder"))
        self._glyphs = GlyphEncoder.read(T5Encoder.of(source, "text_encoder_2"))
        self._image = ImageEncoder.read(settings.SiglipVision.of(source, "image_encoder"))
        self._vae = Vae.read(settings.Hunyuan15Vae.of(source, "vae"))
        self.parameters = {
            "transformer": self._transformer.count(),
            "text_encoder": self._text.count(),
            "text_encoder_2": self._glyphs.count(),
            "image_encoder": self._image.count(),
            "vae": self._vae.count(),
        }
        self.name = f"{family} {self._transformer.layers} x {self._transformer.width}"

    @staticmethod
    def read_grid(source: Source) -> Grid:
        return read_grid(source)

    @property
    def context(self) -> int:
        """How many context tokens there are at most."""
        return TEXT_TOKENS + GLYPH_TOKENS + self._image.tokens

    def tokens(self, frames: int, width: int, height: int) -> int:
        edge = self.grid.multiple
        return self.grid.latent_frames(frames) * (width // edge) * (height // edge)

    def block_bytes(self, dtype: str, storage: str) -> tuple[int, ...]:
        one = stored_bytes(self._transformer.block(), dtype, storage)
        return (one,) * self._transformer.layers

    def other_bytes(self, dtype: str) -> int:
        return dense_bytes(self._transformer.others(), dtype)

    def scratch_bytes(self, dtype: str, storage: str) -> int:
        return 0 if storage == "same" else self._transformer.largest_matrix() * ITEM[dtype]

    def largest_matrix(self) -> int:
        return self._transformer.largest_matrix() * ITEM["float32"]

    def lora_parameters(self, rank: int, targets: str) -> int:
        width, inner = self._transformer.width, self._transformer.inner
        attention, feed_forward = 4 * 2 * width, 2 * (width + inner)
        sides = attention + (feed_forward if targets == "attention+ffn" else 0)
        return self._transformer.layers * rank * sides

    def input_bytes(self, dtype: str, tokens: int) -> int:
        return (tokens + self.context) * self._transformer.width * ITEM[dtype]

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
        moments = MOMENTS[way, ITEM[dtype], targets]
        worth = max(video * tokens + context * self.context for video, context in moments)
        low_rank = 0 if way == "infer" else LORA_MODULES[targets] * rank * tokens * ITEM["float32"]
        return batch * (worth * self._transformer.width * ITEM[dtype] + low_rank)

    def _around(self, dtype: str, tokens: int, batch: int) -> int:
        """What every block is given beside its input, and what lies around the transformer."""
        model = self._transformer
        rope = 2 * tokens * model.head * ITEM["float32"]
        context = CONTEXT_COPIES * batch * self.context * model.width * ITEM[dtype]
        latents = batch * tokens * model.cells * model.outputs * ITEM["float32"]
        return rope + context + LATENT_COPIES * latents

    def encoders(self, dtype: str) -> dict[str, Encoder]:
        return {
            "text encoder": self._text.memory(dtype),
            "glyph encoder": self._glyphs.memory(dtype),
            "image encoder": self._image.memory(),
        }

    def vae_bytes(self) -> int:
        return self._vae.half() * ITEM["float32"]

    def vae_encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        return self._vae.encode_bytes(frames, width, height, tile)

    def vae_decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        return self._vae.decode_bytes(frames, width, height, tile)


def read_grid(source: Source) -> Grid:
    """The grid of a HunyuanVideo-1.5 checkpoint, from the configurations of VAE and transformer."""
    vae = settings.Hunyuan15Vae.of(source, "vae")
    patch = settings.Hunyuan15Transformer.of(source, "transformer").patch_size
    return Grid(vae.spatial_compression_ratio, patch, vae.temporal_compression_ratio)
