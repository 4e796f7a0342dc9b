"""Parameters and memory of HunyuanVideo-1.5's encoders: Qwen2.5-VL, ByT5, SigLIP. Needs no torch.

The parameters follow the classes of transformers layer by layer. The largest sums of intermediate
results are closed forms whose coefficients were counted on the real classes, tensor by tensor; the
tests count again and compare.
"""

from dataclasses import dataclass

from maskora.models.checks import T5Encoder
from maskora.models.hunyuan15.checks import Qwen, SiglipVision
from maskora.models.sizes import ITEM, Encoder, Parameter, count, dense_bytes, linear, stored_bytes

INSTRUCTION_TOKENS, TEXT_TOKENS, GLYPH_TOKENS = 108, 1000, 256
FLOAT = ITEM["float32"]


@dataclass(frozen=True)
class TextEncoder:
    """`Qwen2_5_VLTextModel`, from text_encoder/config.json."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    groups: int

    @classmethod
    def read(cls, told: Qwen) -> "TextEncoder":
        """From the part's configuration."""
        heads = told.num_attention_heads
        return cls(
            vocabulary=told.vocab_size,
            width=told.hidden_size,
            inner=told.intermediate_size,
            layers=told.num_hidden_layers,
            heads=heads,
            groups=told.num_key_value_heads or heads,
        )

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def layer(self) -> list[Parameter]:
        """One layer's parameters."""
        return [
            *linear(self.width, self.width),
            *2 * linear(self.width, self.groups * self.head),
            *linear(self.width, self.width, bias=False),
            *2 * linear(self.width, self.inner, bias=False),
            *linear(self.inner, self.width, bias=False),
            *2 * [Parameter((self.width,))],
        ]

    def count(self) -> int:
        """How many values it has: the embedding of the vocabulary, the layers, the last norm."""
        return self.vocabulary * self.width + self.layers * count(self.layer()) + self.width

    def memory(self, dtype: str) -> Encoder:
        """Streamed layer by layer; rows of the embedding are read from disk."""
        tokens = INSTRUCTION_TOKENS + TEXT_TOKENS
        results = tokens * (4 * self.width + 3 * self.inner + 2 * self.head) * ITEM[dtype]
        return Encoder(
            layer=stored_bytes(self.layer(), dtype, "same"),
            others=self.head * FLOAT,  # frequencies of the positions, twice
            activations=results + tokens**2,  # and the mask of the past
            host=0,
        )


@dataclass(frozen=True)
class GlyphEncoder:
    """`T5EncoderModel`, from text_encoder_2/config.json."""

    vocabulary: int
    width: int
    heads: int
    head: int
    inner: int
    layers: int
    buckets: int
    gated: bool

    @classmethod
    def read(cls, told: T5Encoder) -> "GlyphEncoder":
        """From the part's configuration."""
        return cls(
            vocabulary=told.vocab_size,
            width=told.d_model,
            heads=told.num_heads,
            head=told.d_kv,
            inner=told.d_ff,
            layers=told.num_layers,
            buckets=told.relative_attention_num_buckets,
            gated=told.gated,
        )

    def layer(self, dtype: str) -> list[Parameter]:
        """A layer's parameters; where the rest is float16, the last matrix is float32."""
        attention = self.heads * self.head
        ways_in = 2 if self.gated else 1
        return [
            *3 * linear(self.width, attention, bias=False),
            *linear(attention, self.width, bias=False),
            *ways_in * linear(self.width, self.inner, bias=False),
            Parameter((self.width, self.inner), "float32" if dtype == "float16" else "linear"),
            *2 * [Parameter((self.width,))],
        ]

    def biases(self) -> Parameter:
        """What the first layer has besides: the bias of each distance between tokens."""
        return Parameter((self.buckets, self.heads))

    def count(self) -> int:
        """How many values it has: the embedding of the vocabulary, the layers, the last norm."""
        layers = self.layers * count(self.layer("float32")) + self.biases().count
        return self.vocabulary * self.width + layers + self.width

    def memory(self, dtype: str) -> Encoder:
        """Streamed layer by layer; rows of the embedding are read from disk."""
        biases = self.heads * GLYPH_TOKENS
        results = GLYPH_TOKENS * (4 * self.width + 4 * self.inner + biases) * ITEM[dtype]
        return Encoder(
            layer=stored_bytes([*self.layer(dtype), self.biases()], dtype, "same"),
            others=self.width * ITEM[dtype],
            activations=results,
            host=0,
        )


@dataclass(frozen=True)
class ImageEncoder:
    """`SiglipVisionModel`, from image_encoder/config.json."""

    width: int
    inner: int
    layers: int
    patch: int
    image: int
    pools: bool

    @classmethod
    def read(cls, told: SiglipVision) -> "ImageEncoder":
        """From the part's configuration."""
        return cls(
            width=told.hidden_size,
            inner=told.intermediate_size,
            layers=told.num_hidden_layers,
            patch=told.patch_size,
            image=told.image_size,
            pools=told.vision_use_head,
        )

    @property
    def tokens(self) -> int:
        """Tokens of one picture: its patches."""
        return (self.image // self.patch) ** 2

    def layer(self) -> list[Parameter]:
        """One layer's parameters."""
        return [
            *4 * linear(self.width, self.width),
            *linear(self.width, self.inner),
            *linear(self.inner, self.width),
            *4 * [Parameter((self.width,))],
        ]

    def others(self) -> list[Parameter]:
        """The parameters outside the layers, without the head, which is not loaded."""
        return [
            Parameter((self.width, 3, self.patch, self.patch)),
            Parameter((self.tokens, self.width)),
            *3 * [Parameter((self.width,))],
        ]

    def _head(self) -> list[Parameter]:
        """One more layer that asks for the whole picture."""
        return [Parameter((self.width,)), *self.layer()[:-2]]

    def count(self) -> int:
        """How many values it has."""
        head = count(self._head()) if self.pools else 0
        return count(self.others()) + self.layers * count(self.layer()) + head

    def memory(self) -> Encoder:
        """In float32, streamed layer by layer."""
        results = self.tokens * (4 * self.width + 2 * self.inner) + 3 * self.image**2
        return Encoder(
            layer=stored_bytes(self.layer(), "float32", "same"),
            others=dense_bytes(self.others(), "float32"),
            activations=results * FLOAT,
            host=0,
        )
