"""Wan2.2-I2V-A14B: Wan2.1's tensors without image tokens, and two transformers.

Levels of much noise belong to the first, the others to the second; the border stands in
`model_index.json` (`boundary_ratio`, 0.9 as published).
"""

from maskora.errors import UserError
from maskora.models.base import Expert
from maskora.models.settings.wan import WAN22, WanTransformer
from maskora.models.source import Source
from maskora.models.wan21 import SCHEDULER, TOKENIZER, Wan21
from maskora.streaming.plan import RESIDENT, Placement

BOUNDARY = 0.9


class Wan22(Wan21):
    """Wan2.2-I2V-A14B. Each expert has a LoRA of its own."""

    family = "wan2.2-i2v"
    parts = ("transformer", "transformer_2", "vae", "text_encoder", "tokenizer")
    weights = ("transformer", "transformer_2", "vae", "text_encoder")
    files = {"tokenizer": TOKENIZER, "scheduler": SCHEDULER}  # noqa: RUF012 - never changed
    settings = WAN22
    sees_picture = False
    instead = "Wan2.2-I2V-A14B"

    def __init__(
        self, source: Source, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        super().__init__(source, dtype, device, placement)
        self._check_class(source.config("transformer_2").get("_class_name"))
        self._check_kind(WanTransformer.of(source, "transformer_2"))
        boundary = source.index().get("boundary_ratio", BOUNDARY)
        if not (isinstance(boundary, int | float) and 0 < boundary < 1):
            raise UserError(
                f"{source.where / 'model_index.json'}: boundary_ratio is {boundary!r}; it divides "
                f"the noise levels between the two transformers, so it lies between 0 and 1"
            )
        self.experts = (
            Expert("high", "transformer", lowest=boundary, highest=1.0),
            Expert("low", "transformer_2", lowest=0.0, highest=boundary),
        )
