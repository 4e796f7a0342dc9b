"""Attention of HunyuanVideo-1.5's blocks without padding."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor


class UnpaddedAttention:
    """A processor for these blocks, with diffusers' answer for every token that anyone sees.

    diffusers' own keeps padded context tokens and hides them by a boolean mask of tokens x tokens,
    made twice in every block: (20280 + 1985)^2 bytes each for 49 frames of 832x480, and attention
    with a mask misses the fastest kernels. Here each sample's padding, which comes after its own
    context, is left out, so no mask is needed. Padded tokens get zeros; no token looks at them.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What diffusers gives its own: the names of the arguments are its.

        Args:
            hidden_states: video tokens (B, N, D).
            encoder_hidden_states: context tokens (B, L, D).
            attention_mask: (B, L) in host memory, False for padding; None where nothing is padded.
            image_rotary_emb: cosines and sines of the video tokens' positions.

        Returns:
            the attention's answer for the video and for the context, of their shapes.
        """
        length = encoder_hidden_states.shape[1]
        if attention_mask is None:
            lengths = [length] * len(hidden_states)
        else:
            lengths = attention_mask.sum(dim=1).tolist()
        answers = [
            joint_attention(
                attn,
                hidden_states[index : index + 1],
                encoder_hidden_states[index : index + 1, :own],
                image_rotary_emb,
            )
            for index, own in enumerate(lengths)
        ]
        video_BND = torch.cat([video for video, _ in answers])
        context = [F.pad(one, (0, 0, 0, length - one.shape[1])) for _, one in answers]
        return video_BND, torch.cat(context)


def joint_attention(
    attn: Any, video_BND: Tensor, context_BLD: Tensor, rotary: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Video and context tokens attend to all of both; each stream has its own projections."""

    def joined(video: Any, norm: Any, context: Any, context_norm: Any) -> Tensor:
        video_BNHD = norm(video(video_BND).unflatten(2, (attn.heads, -1)))
        context_BLHD = context_norm(context(context_BLD).unflatten(2, (attn.heads, -1)))
        rotated = apply_rotary_emb(video_BNHD, rotary, sequence_dim=1)
        return torch.cat([rotated, context_BLHD], dim=1)

    value = torch.cat([attn.to_v(video_BND), attn.add_v_proj(context_BLD)], dim=1)
    answer_BMD = dispatch_attention_fn(
        joined(attn.to_q, attn.norm_q, attn.add_q_proj, attn.norm_added_q),
        joined(attn.to_k, attn.norm_k, attn.add_k_proj, attn.norm_added_k),
        value.unflatten(2, (attn.heads, -1)),
    ).flatten(2)
    video_BND, context_BLD = answer_BMD.tensor_split([video_BND.shape[1]], dim=1)
    return attn.to_out[0](video_BND), attn.to_add_out(context_BLD)
