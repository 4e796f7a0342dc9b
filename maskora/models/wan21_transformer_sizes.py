"""The parameters of Wan2.1's transformer, as diffusers' class makes them. Needs no torch."""

from dataclasses import dataclass
from typing import Any

from maskora.models.sizes import ITEM, Parameter, count, linear


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
    def read(cls, config: dict[str, Any]) -> "Transformer":
        """From the file's content; what it leaves out has diffusers' default."""
        head = config.get("attention_head_dim", 128)
        frames, height, width = config.get("patch_size", (1, 2, 2))
        inputs = config.get("in_channels", 16)
        return cls(
            layers=config.get("num_layers", 40),
            width=config.get("num_attention_heads", 40) * head,
            head=head,
            inner=config.get("ffn_dim", 13824),
            inputs=inputs,
            outputs=config.get("out_channels", 16) or inputs,
            cells=frames * height * width,
            text=config.get("text_dim", 4096),
            frequencies=config.get("freq_dim", 256),
            image=config.get("image_dim") or 0,
            added=config.get("added_kv_proj_dim") or 0,
            positions=config.get("rope_max_seq_len", 1024),
            crossed_norm=config.get("cross_attn_norm", True),
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
