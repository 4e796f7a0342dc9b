"""The tables about words: what the pictures show, and who says so."""

from typing import Annotated

from pydantic import Field

from maskora.config.base import Table

NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall gray, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "misshapen limbs, fused fingers, still picture, messy background, three legs, many people in "
    "the background, walking backwards"
)


class Prompt(Table):
    """The words. A .txt beside an image (source/00000.txt, edits/NNNNN.txt) wins over these."""

    token: str = Field("p3rs0n", description="the special token put before every caption")
    caption: str = Field(
        "auto", description='what the source shows; "auto" = the captioner of [caption] says it'
    )
    edited_caption: str = Field(
        "auto", description='what the edited frame shows; "auto" = the captioner says it'
    )
    negative: str = Field(NEGATIVE_PROMPT, description="what guidance steers away from")


class Caption(Table):
    """Who writes a caption that is left at "auto"."""

    model: Annotated[str, Field(min_length=1)] = Field(
        "florence-community/Florence-2-large",
        description='Florence-2: a hub id or a local folder (relative to this file); "none" = '
        "nobody, captions are yours",
    )
