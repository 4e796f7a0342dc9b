"""The parameters of HunyuanVideo's transformer, as diffusers' class makes them. Needs no torch."""

from dataclasses import dataclass
from typing import Any

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
    def read(cls, config: dict[str, Any]) -> "Transformer":
        """From the file's content; what it leaves out has diffusers' default."""
        head = config.get("attention_head_dim", 128)
        width = config.get("num_attention_heads", 24) * head
        inputs = config.get("in_channels", 16)
        return cls(
            double=config.get("num_layers", 20),
            single=config.get("num_single_layers", 40),
            refiners=config.get("num_refiner_layers", 2),
            width=width,
            head=head,
            inner=int(width * config.get("mlp_ratio", 4.0)),
            inputs=inputs,
            outputs=config.get("out_channels", 16) or inputs,
            cells=config.get("patch_size_t", 1) * config.get("patch_size", 2) ** 2,
            text=config.get("text_embed_dim", 4096),
            pooled=config.get("pooled_projection_dim", 768),
            guidance=config.get("guidance_embeds", True),
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
