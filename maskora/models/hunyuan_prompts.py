"""Where HunyuanVideo-I2V's template puts a prompt and a picture, as functions of tensors.

The template is diffusers' own. Its <image> token is replaced by the picture's tokens; of what LLaVA
makes of it all, the picture's tokens (every second one) and the prompt's are kept.
Legend: B cues, L tokens of the template with a prompt, N tokens of a picture, D width.
"""

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import (
    DEFAULT_PROMPT_TEMPLATE as TEMPLATE,
)
from torch import Tensor

PROMPT_START: int = TEMPLATE["crop_start"]
PICTURE_START: int = TEMPLATE["image_emb_start"]
PICTURE_TOKENS: int = TEMPLATE["image_emb_len"]
TOKENS = PROMPT_START + 256  # with the template; longer prompts are cut
INTERLEAVE = 2
END_HEADER, HEADERS = "<|end_header_id|>", 3
ENDING = 4  # tokens between the prompt and the answer, which are cut out


def in_template(prompt: str) -> str:
    """The text that is tokenised."""
    return str(TEMPLATE["template"]).format(prompt)


def insert_picture(words_BLx: Tensor, picture_BNx: Tensor) -> Tensor:
    """Put a picture's tokens (their embeddings, or masks) in the place of the <image> token."""
    before, after = words_BLx[:, :PICTURE_START], words_BLx[:, PICTURE_START + 1 :]
    return torch.cat([before, picture_BNx, after], dim=1)


def positions(attended_BL: Tensor) -> Tensor:
    """Rotary positions: attended tokens are counted, the others have 1."""
    return (attended_BL.cumsum(-1) - 1).masked_fill(~attended_BL, 1)


def cut(states_LD: Tensor, is_end_header_L: Tensor, mask_L: Tensor) -> tuple[Tensor, Tensor]:
    """The picture's and the prompt's states, and the mask of both.

    Args:
        states_LD: of all tokens, the picture's N inserted.
        is_end_header_L: which tokens end a header of the template, without the picture.
        mask_L: which tokens are no padding, without the picture.

    Returns:
        states (N / 2 + L', D) and their mask of zeros and ones.
    """
    picture_ND = states_LD[PICTURE_START : PICTURE_START + PICTURE_TOKENS][::INTERLEAVE]
    words_LD = states_LD[PICTURE_TOKENS - 1 :]  # counted as without the picture
    headers = is_end_header_L.nonzero().flatten()
    # A long prompt cuts the template's last header off.
    answer = int(headers[-1]) + 1 if len(headers) >= HEADERS else len(mask_L)
    kept = [slice(PROMPT_START, answer - ENDING), slice(answer, None)]
    return (
        torch.cat([picture_ND, *(words_LD[part] for part in kept)]),
        torch.cat([mask_L.new_ones(len(picture_ND)), *(mask_L[part] for part in kept)]),
    )
