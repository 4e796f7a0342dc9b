"""The parameters of Wan2.1's transformer, as diffusers' class makes them. Needs no torch."""

from dataclasses import dataclass

from maskora.models.sizes import ITEM, Parameter, count, linear
from maskora.models.wan.checks import WanTransformer


@dataclass(frozen=True)
class Transformer:
    """`WanTransformer3DModel`, from transformer/config.json.

    Attributes:
        head: width of one attention head.
        inner: width of the feed-forward.
        cells: latent cells per token.
        image: width of the image tokens; 0 for a model without them.
        added: width of the image tokens inside the blocks; 0 for none.
        positions: how many the rotary tables hold.
    """

    layers: int
    width: int
    head: int
    inner: int
    inputs: int
    outputs: int
    cells: int
    text: int
    frequencies: int
    image: int
    added: int
    positions: int
    crossed_norm: bool

    @classmethod
    def read(cls, told: WanTransformer) -> "Transformer":
        """From the part's configuration."""
        head = told.attention_head_dim
        frames, height, width = told.patch_size
        return cls(
            layers=told.num_layers,
            width=told.num_attention_heads * head,
            head=head,
            inner=told.ffn_dim,
            inputs=told.in_channels,
            outputs=told.out_channels,
            cells=frames * height * width,
            text=told.text_dim,
            frequencies=told.freq_dim,
            image=told.image_dim or 0,
            added=told.added_kv_proj_dim or 0,
            positions=told.rope_max_seq_len,
            crossed_norm=told.cross_attn_norm,
        )

    def block(self) -> list[Parameter]:
        """One block's parameters."""
        width = self.width
        attention = [*4 * linear(width, width), *2 * [Parameter((width,))]]
        images = [*2 * linear(self.added, width), Parameter((width,))] if self.added else []
        norm = 2 * [Parameter((width,), "float32")] if self.crossed_norm else []
        feed_forward = [*linear(width, self.inner), *linear(self.inner, width)]
        table = Parameter((1, 6, width), "float32")
        return [table, *attention, *attention, *images, *norm, *feed_forward]

    def others(self) -> list[Parameter]:
        """The parameters outside the blocks; none of them is stored compressed."""
        width = self.width
        time = [*linear(self.frequencies, width), *linear(width, width)]
        images = [
            *2 * [Parameter((self.image,), "float32")],
            *linear(self.image, self.image),
            *linear(self.image, width),
            *2 * [Parameter((width,), "float32")],
        ]
        return [
            Parameter((width, self.inputs * self.cells)),
            Parameter((width,)),
            *[Parameter(parameter.shape, "float32") for parameter in time],
            *linear(width, 6 * width),
            *linear(self.text, width),
            *linear(width, width),
            *(images if self.image else []),
            *linear(width, self.outputs * self.cells),
            Parameter((1, 2, width), "float32"),
        ]

    def tables(self) -> int:
        """Bytes of the rotary tables, cosine and sine."""
        return 2 * self.positions * self.head * ITEM["float32"]

    def count(self) -> int:
        """How many values it has."""
        return count(self.others()) + self.layers * count(self.block())

    def largest_matrix(self) -> int:
        """How many values the largest Linear of a block has."""
        return max(p.count for p in self.block() if p.kind == "linear")
