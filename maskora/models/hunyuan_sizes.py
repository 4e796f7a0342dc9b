"""What HunyuanVideo-I2V asks of memory, from its configuration files alone. No torch.

A block takes video and words together. The single blocks take more than the double ones, so their
largest sums of intermediate results are those of the transformer: closed forms of a block's input
h = tokens x width in the model's precision, the feed-forward's width relative to the model's (r),
and the LoRA's rank. The coefficients were counted on diffusers' block, tensor by tensor; the tests
count both kinds of block again and compare. They hold for an attention that does not write its
scores out. It is told a truth value per token, since padded words are not attended to: kernels that
take no mask cannot serve it.
"""

from maskora.models.base import Grid
from maskora.models.files.source import Source
from maskora.models.hunyuan import checks as settings
from maskora.models.hunyuan_encoder_sizes import TEXT_TOKENS, Llava, PooledEncoder
from maskora.models.hunyuan_transformer_sizes import Transformer
from maskora.models.hunyuan_vae_sizes import Vae
from maskora.models.sizes import ITEM, Encoder, dense_bytes, stored_bytes

# Moments at which a single block's memory may peak, (a, b) for a + b r inputs' worth: in attention,
# and in the feed-forward. 16-bit precisions compute norms and rotations in float32, so their peaks
# are more units, of half the size.
MOMENTS = {
    ("block", 2, "attention"): ((21, 2), (17, 3)),
    ("layer", 2, "attention"): ((23, 2),),
    ("infer", 2, "attention"): ((13, 1), (7, 2)),
    ("block", 2, "attention+ffn"): ((22, 2), (18, 4)),
    ("layer", 2, "attention+ffn"): ((23, 2), (8, 4)),
    ("infer", 2, "attention+ffn"): ((13, 1), (2, 3)),
    ("block", 4, "attention"): ((15, 2), (13, 3)),
    ("layer", 4, "attention"): ((16, 2),),
    ("infer", 4, "attention"): ((10, 1), (7, 2)),
    ("block", 4, "attention+ffn"): ((14, 4),),
    ("layer", 4, "attention+ffn"): ((16, 2), (8, 4)),
    ("infer", 4, "attention+ffn"): ((8, 2), (2, 3)),
}
# Results of a LoRA's first matrices that are kept.
LORA_RESULTS = {"attention": 3, "attention+ffn": 4}
# Copies of the latents around the transformer: noisy, packed, answer, scheduler; in float32.
LATENT_COPIES = 10


class HunyuanSizes:
    """HunyuanVideo-I2V. See `maskora.models.sizes.Sizes` for what each method promises."""

    experts = 1

    def __init__(self, family: str, source: Source) -> None:
        self.grid = read_grid(source)
        self._transformer = Transformer.read(settings.HunyuanTransformer.of(source, "transformer"))
        self._text = Llava.read(settings.Llava.of(source, "text_encoder"))
        self._pooled = PooledEncoder.read(settings.ClipText.of(source, "text_encoder_2"))
        self._vae = Vae.read(settings.HunyuanVae.of(source, "vae"))
        self.embeds_guidance = self._transformer.guidance
        self.parameters = {
            "transformer": self._transformer.count(),
            "text_encoder": self._text.count(),
            "text_encoder_2": self._pooled.count(),
            "vae": self._vae.count(),
        }
        model = self._transformer
        self.name = f"{family} {model.double}+{model.single} x {model.width}"

    @staticmethod
    def read_grid(source: Source) -> Grid:
        return read_grid(source)

    def tokens(self, frames: int, width: int, height: int) -> int:
        """Those of the video and of the words."""
        edge = self.grid.multiple
        return self.grid.latent_frames(frames) * (width // edge) * (height // edge) + TEXT_TOKENS

    def block_bytes(self, dtype: str, storage: str) -> tuple[int, ...]:
        model = self._transformer
        double = stored_bytes(model.double_block(), dtype, storage)
        single = stored_bytes(model.single_block(), dtype, storage)
        return (double,) * model.double + (single,) * model.single

    def other_bytes(self, dtype: str) -> int:
        return dense_bytes(self._transformer.others(), dtype)

    def scratch_bytes(self, dtype: str, storage: str) -> int:
        return 0 if storage == "same" else self._transformer.largest_matrix() * ITEM[dtype]

    def largest_matrix(self) -> int:
        return self._transformer.largest_matrix() * ITEM["float32"]

    def lora_parameters(self, rank: int, targets: str) -> int:
        return self._transformer.lora_parameters(rank, targets == "attention+ffn")

    def input_bytes(self, dtype: str, tokens: int) -> int:
        return tokens * self._transformer.width * ITEM[dtype]

    def train_bytes(self, dtype: str, tokens: int, recompute: str, rank: int, targets: str) -> int:
        block = self.block_peak(recompute, dtype, tokens, 1, rank, targets)
        gradient = self.input_bytes(dtype, tokens)
        return block + gradient + self._around(tokens, 1)

    def infer_bytes(self, dtype: str, tokens: int, batch: int, split: bool, targets: str) -> int:
        one = self.input_bytes(dtype, tokens)
        at_once = 1 if split else batch
        # Running one sample after the other keeps the first ones' results meanwhile.
        waiting = (batch - at_once) * one
        block = self.block_peak("infer", dtype, tokens, at_once, 0, targets)
        return batch * one + waiting + block + self._around(tokens, batch)

    def block_peak(
        self, way: str, dtype: str, tokens: int, batch: int, rank: int, targets: str
    ) -> int:
        """A block's largest sum of intermediate results, without what it is given.

        Args:
            way: "block" or "layer" (recomputed with a graph), or "infer".
        """
        model, item = self._transformer, ITEM[dtype]
        ratio = model.inner / model.width
        units = max(inputs + widths * ratio for inputs, widths in MOMENTS[way, item, targets])
        low_rank = 0 if way == "infer" else LORA_RESULTS[targets] * rank * tokens * item
        return batch * (round(units * self.input_bytes(dtype, tokens)) + low_rank)

    def _around(self, tokens: int, batch: int) -> int:
        """The rotary tables that every block is given, and the latents around the transformer."""
        model, video = self._transformer, tokens - TEXT_TOKENS
        rope = 2 * video * model.head * ITEM["float32"]
        latents = batch * video * model.cells * model.outputs * ITEM["float32"]
        return rope + LATENT_COPIES * latents

    def encoders(self, dtype: str) -> dict[str, Encoder]:
        return {
            "text encoder": self._text.memory(dtype),
            "second text encoder": self._pooled.memory(dtype),
        }

    def vae_bytes(self) -> int:
        return self.parameters["vae"] * ITEM["float32"]

    def vae_encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        return self._vae.encode_bytes(frames, width, height, tile)

    def vae_decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        return self._vae.decode_bytes(frames, width, height, tile)


def read_grid(source: Source) -> Grid:
    """The grid, from the configurations of the VAE and the transformer. Raises UserError."""
    vae = settings.HunyuanVae.of(source, "vae")
    patch = settings.HunyuanTransformer.of(source, "transformer").patch_size
    return Grid(vae.spatial_compression_ratio, patch, vae.temporal_compression_ratio)
