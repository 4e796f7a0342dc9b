"""The parameters of HunyuanVideo-1.5's transformer, as diffusers' class makes them. No torch."""

from dataclasses import dataclass

from maskora.models.hunyuan15.checks import Hunyuan15Transformer
from maskora.models.sizes import Parameter, count, linear

FREQUENCIES, GLYPH_WIDTH, REFINER_RATIO = 256, 2048, 4  # constants of the class


@dataclass(frozen=True)
class Transformer:
    """`HunyuanVideo15Transformer3DModel`, from transformer/config.json.

    Attributes:
        head: width of one attention head.
        inner: width of the feed-forward.
        cells: latent cells per token.
        text, glyphs, image: widths of what the encoders give.
        refiners: blocks that the text passes first; they are not streamed.
    """

    layers: int
    width: int
    head: int
    inner: int
    inputs: int
    outputs: int
    cells: int
    text: int
    glyphs: int
    image: int
    refiners: int

    @classmethod
    def read(cls, told: Hunyuan15Transformer) -> "Transformer":
        """From the part's configuration."""
        head = told.attention_head_dim
        width = told.num_attention_heads * head
        return cls(
            layers=told.num_layers,
            width=width,
            head=head,
            inner=int(width * told.mlp_ratio),
            inputs=told.in_channels,
            outputs=told.out_channels,
            cells=told.patch_size_t * told.patch_size**2,
            text=told.text_embed_dim,
            glyphs=told.text_embed_2_dim,
            image=told.image_embed_dim,
            refiners=told.num_refiner_layers,
        )

    def block(self) -> list[Parameter]:
        """One block's parameters: two streams, video and context."""
        width = self.width
        stream = [
            *linear(width, 6 * width),
            *4 * linear(width, width),
            *2 * [Parameter((self.head,))],
            *linear(width, self.inner),
            *linear(self.inner, width),
        ]
        return 2 * stream

    def others(self) -> list[Parameter]:
        """The parameters outside the blocks; none of them is stored compressed."""
        width = self.width
        time = [*linear(FREQUENCIES, width), *linear(width, width)]
        return [
            Parameter((width, self.inputs * self.cells)),
            Parameter((width,)),
            *time,
            *self._text(),
            *2 * [Parameter((self.glyphs,))],
            *linear(self.glyphs, GLYPH_WIDTH),
            *linear(GLYPH_WIDTH, GLYPH_WIDTH),
            *linear(GLYPH_WIDTH, width),
            *2 * [Parameter((self.image,))],
            *linear(self.image, self.image),
            *linear(self.image, width),
            *2 * [Parameter((width,))],
            Parameter((3, width)),
            *linear(width, 2 * width),
            *linear(width, self.outputs * self.cells),
        ]

    def _text(self) -> list[Parameter]:
        """The token refiner, with its own embedding of time and prompt."""
        width = self.width
        block = [
            *4 * linear(width, width),
            *4 * [Parameter((width,))],
            *linear(width, REFINER_RATIO * width),
            *linear(REFINER_RATIO * width, width),
            *linear(width, 2 * width),
        ]
        return [
            *linear(FREQUENCIES, width),
            *2 * linear(width, width),
            *2 * linear(self.text, width),
            *self.refiners * block,
        ]

    def count(self) -> int:
        """How many values it has."""
        return count(self.others()) + self.layers * count(self.block())

    def largest_matrix(self) -> int:
        """How many values the largest Linear of a block has."""
        return max(p.count for p in self.block() if p.kind == "linear")
