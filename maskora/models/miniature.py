"""The miniature: a Wan of a few million weights that ships with maskora.

Same classes, same packing, no picture and no words: its text is constantly zero, so a prompt has no
effect, and neither has guidance; LoRA leaves the attention to words alone. It knows one world, the
rendered one of `maskora.miniature`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from maskora.models.base import Context, ContextEncoder, Cue, EncodeCues
from maskora.models.settings.wan import MINIATURE, WanTransformer
from maskora.models.wan21 import FEED_FORWARD, SCHEDULER, Wan21

SELF_ATTENTION = r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"


class Miniature(Wan21):
    """The miniature. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "miniature"
    parts = ("transformer", "vae")
    weights = ("transformer", "vae")
    files = {"scheduler": SCHEDULER}  # noqa: RUF012 - never changed
    settings = MINIATURE
    sees_picture = False
    instead = "miniature"

    def _check_encoders(self, transformer: WanTransformer) -> None:
        """There is no encoder whose tokens could have another width."""

    def encoders(self) -> tuple[ContextEncoder, ...]:
        width = WanTransformer.of(self.source, "transformer").text_dim

        @contextmanager
        def no_words() -> Iterator[EncodeCues]:
            """Any cue -> {"text": one word of zeros, (1, width)}."""

            def encode(cues: Sequence[Cue]) -> list[Context]:
                return [{"text": torch.zeros(1, width)} for _ in cues]

            yield encode

        return (ContextEncoder("text", parts=(), precision=f"zero {width}", load=no_words),)

    def lora_targets(self, kind: str) -> str:
        return SELF_ATTENTION if kind == "attention" else f"({SELF_ATTENTION}|{FEED_FORWARD})"
