"""Parameters and memory of HunyuanVideo-I2V's encoders: LLaVA and CLIP. Needs no torch.

The parameters follow the classes of transformers layer by layer. The largest sums of intermediate
results were counted on the real classes, tensor by tensor; the tests count again and compare.
"""

from dataclasses import dataclass

from maskora.models.hunyuan import checks as settings
from maskora.models.sizes import ITEM, Encoder, Parameter, count, dense_bytes, linear, stored_bytes
from maskora.models.wan21_encoder_sizes import ImageEncoder

# What the transformer is told: every second token of the picture, and the prompt's.
TEXT_TOKENS = 576 // 2 + 252
# What LLaVA computes on: the template with the prompt, and the picture.
TEMPLATE_TOKENS = 103 + 256 - 1 + 576
POOLED_TOKENS = 77


@dataclass(frozen=True)
class Llava:
    """`LlavaForConditionalGeneration` of Llama and CLIP, from text_encoder/config.json."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    queries: int
    keys: int
    heads: int
    vision: ImageEncoder

    @classmethod
    def read(cls, told: settings.Llava) -> "Llava":
        """From the part's configuration."""
        text = told.text_config
        width, heads = text.hidden_size, text.num_attention_heads
        head = text.head_dim or width // heads
        tied = told.tie_word_embeddings or text.tie_word_embeddings
        return cls(
            vocabulary=text.vocab_size,
            width=width,
            inner=text.intermediate_size,
            layers=text.num_hidden_layers,
            queries=heads * head,
            keys=(text.num_key_value_heads or heads) * head,
            heads=0 if tied else 1,
            vision=ImageEncoder.read(told.vision_config),
        )

    def layer(self) -> list[Parameter]:
        """One layer of the language model."""
        return [
            *linear(self.width, self.queries, bias=False),
            *2 * linear(self.width, self.keys, bias=False),
            *linear(self.queries, self.width, bias=False),
            *2 * linear(self.width, self.inner, bias=False),
            *linear(self.inner, self.width, bias=False),
            *2 * [Parameter((self.width,))],
        ]

    def projector(self) -> list[Parameter]:
        """What takes the picture's tokens to the language model."""
        return [*linear(self.vision.width, self.width), *linear(self.width, self.width)]

    def count(self) -> int:
        """How many values it has, the layers that are not computed included."""
        words = (1 + self.heads) * self.vocabulary * self.width
        language = words + self.layers * count(self.layer()) + self.width
        return language + count(self.projector()) + self.vision.count()

    def memory(self, dtype: str) -> Encoder:
        """Streamed layer by layer; rows of the embedding are read from disk."""
        layers = [self.layer(), self.vision.layer()]
        language = 3 * TEMPLATE_TOKENS * (self.width + self.inner)
        vision = 4 * self.vision.tokens * self.vision.inner
        return Encoder(
            layer=max(stored_bytes(layer, dtype, "same") for layer in layers),
            others=dense_bytes([*self.vision.others(), *self.projector()], dtype),
            activations=max(language, vision) * ITEM[dtype],
            host=0,
        )


@dataclass(frozen=True)
class PooledEncoder:
    """`CLIPTextModel`, from text_encoder_2/config.json."""

    vocabulary: int
    positions: int
    width: int
    inner: int
    layers: int

    @classmethod
    def read(cls, told: settings.ClipText) -> "PooledEncoder":
        """From the part's configuration."""
        return cls(
            vocabulary=told.vocab_size,
            positions=told.max_position_embeddings,
            width=told.hidden_size,
            inner=told.intermediate_size,
            layers=told.num_hidden_layers,
        )

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
        rows = self.vocabulary + self.positions
        return [Parameter((rows, self.width)), *2 * [Parameter((self.width,))]]

    def count(self) -> int:
        """How many values it has."""
        return count(self.others()) + self.layers * count(self.layer())

    def memory(self, dtype: str) -> Encoder:
        """Streamed layer by layer; the word embeddings lie on the device."""
        return Encoder(
            layer=stored_bytes(self.layer(), dtype, "same"),
            others=dense_bytes(self.others(), dtype),
            activations=4 * POOLED_TOKENS * self.inner * ITEM[dtype],
            host=0,
        )
