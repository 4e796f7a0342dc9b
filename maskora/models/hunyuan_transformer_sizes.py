"""The parameters of HunyuanVideo's transformer, as diffusers' class makes them. Needs no torch."""

from dataclasses import dataclass

from maskora.models.hunyuan.checks import HunyuanTransformer
from maskora.models.sizes import Parameter, count, linear

FREQUENCIES = 256  # of timesteps and of guidance, before their first layer
REFINER_RATIO = 4  # of the refiner's feed-forward, whatever the blocks' is


@dataclass(frozen=True)
class Transformer:
    """`HunyuanVideoTransformer3DModel`, from transformer/config.json.

    Attributes:
        double, single: blocks of two streams (video and words), and of one.
        refiners: blocks that refine the words before.
        head: width of one attention head.
        inner: width of the feed-forward.
        cells: latent cells per token.
        text: width of the words as LLaVA gives them.
        pooled: width of the pooled prompt.
        guidance: whether it embeds guidance.
    """

    double: int
    single: int
    refiners: int
    width: int
    head: int
    inner: int
    inputs: int
    outputs: int
    cells: int
    text: int
    pooled: int
    guidance: bool

    @classmethod
    def read(cls, told: HunyuanTransformer) -> "Transformer":
        """From the part's configuration."""
        head = told.attention_head_dim
        width = told.num_attention_heads * head
        return cls(
            double=told.num_layers,
            single=told.num_single_layers,
            refiners=told.num_refiner_layers,
            width=width,
            head=head,
            inner=int(width * told.mlp_ratio),
            inputs=told.in_channels,
            outputs=told.out_channels,
            cells=told.patch_size_t * told.patch_size**2,
            text=told.text_embed_dim,
            pooled=told.pooled_projection_dim,
            guidance=told.guidance_embeds,
        )

    def double_block(self) -> list[Parameter]:
        """One block of two streams."""
        width = self.width
        stream = [
            *linear(width, 6 * width),
            *4 * linear(width, width),
            *2 * [Parameter((self.head,))],
            *linear(width, self.inner),
            *linear(self.inner, width),
        ]
        return 2 * stream

    def single_block(self) -> list[Parameter]:
        """One block of one stream."""
        width = self.width
        return [
            *linear(width, 3 * width),
            *3 * linear(width, width),
            *2 * [Parameter((self.head,))],
            *linear(width, self.inner),
            *linear(width + self.inner, width),
        ]

    def blocks(self) -> list[list[Parameter]]:
        """Every block, in the order of computation."""
        return self.double * [self.double_block()] + self.single * [self.single_block()]

    def others(self) -> list[Parameter]:
        """The parameters outside the blocks; none of them is stored compressed."""
        width = self.width
        time = [*linear(FREQUENCIES, width), *linear(width, width)]
        inner = REFINER_RATIO * width
        refiner = [
            *4 * [Parameter((width,))],
            *4 * linear(width, width),
            *linear(width, inner),
            *linear(inner, width),
            *linear(width, 2 * width),
        ]
        return [
            *linear(self.inputs * self.cells, width),
            *(3 if self.guidance else 2) * time,  # of the video, of the words
            *linear(self.pooled, width),
            *linear(width, width),
            *2 * linear(self.text, width),
            *linear(width, width),
            *self.refiners * refiner,
            *linear(width, 2 * width),
            *linear(width, self.outputs * self.cells),
        ]

    def count(self) -> int:
        """How many values it has."""
        return count(self.others()) + sum(map(count, self.blocks()))

    def largest_matrix(self) -> int:
        """How many values the largest Linear of a block has."""
        return max(p.count for block in self.blocks() for p in block if p.kind == "linear")

    def lora_parameters(self, rank: int, feed_forward: bool) -> int:
        """How many values a LoRA has: on the video's stream and on the single blocks."""
        width, inner = self.width, self.inner
        double, single = 4 * 2 * width, 3 * 2 * width
        if feed_forward:
            double += 2 * (width + inner)
            single += (width + inner) + (width + inner + width)
        return rank * (self.double * double + self.single * single)
