"""What all tables share, and those about the base: which one, and how it lies in memory."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from maskora.models import FAMILIES

PLAIN = ("bfloat16", "float16", "float32")
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Frames = Annotated[int, Field(ge=5)]


class Table(BaseModel):
    """One TOML table. Unknown keys are errors; values keep their TOML type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _known(family: str) -> str:
    if family not in FAMILIES:
        raise ValueError(f"{family!r} is no kind of base; there are {', '.join(FAMILIES)}")
    return family


class Model(Table):
    """The base that is fine-tuned: an image-to-video diffusion transformer."""

    family: Annotated[str, AfterValidator(_known)] = Field(
        "wan2.1-i2v",
        description=f"which kind of base ({', '.join(FAMILIES)}); it decides how a mask becomes "
        f"model input",
    )
    path: Annotated[str, Field(min_length=1)] = Field(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        description="a hub id, or a local folder in diffusers' layout (relative to this file)",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16",
        description="precision of the transformer and the text encoder: bfloat16, float16, "
        "float32 (the VAE and the image encoder always run in float32)",
    )
    transformer_dtype: Literal[
        "same", "bfloat16", "float16", "float32", "float8", "int8", "nf4"
    ] = Field(
        "same",
        description="how the transformer's frozen weights are kept: same (as dtype) | float8 | "
        "int8 | nf4: less memory, less exact; in training and inference alike",
    )

    @model_validator(mode="after")
    def _computes_as_it_keeps(self) -> "Model":
        kept = self.transformer_dtype
        if kept in PLAIN and kept != self.dtype:
            raise ValueError(
                f'transformer_dtype is {kept!r} and dtype is {self.dtype!r}: write "same" (or '
                f"change dtype too), or one of the compressed forms float8, int8, nf4"
            )
        return self

    @property
    def storage(self) -> str:
        """transformer_dtype as a form of storage: "same" where it is what dtype is anyway."""
        return "same" if self.transformer_dtype in PLAIN else self.transformer_dtype


class Memory(Table):
    """Where the base lies while it works. `maskora plan` tells what comes of it."""

    vram_budget_gb: Annotated[float, Field(gt=0)] = Field(
        8.0, description="how much of the card's memory may be used, in GB (2^30 bytes)"
    )
    blocks_to_swap: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="how many of the transformer's blocks wait in RAM and are streamed to the "
        'card; "auto" = the fewest that fit the budget',
    )
    activation_offload: bool = Field(
        True, description="what training keeps of each block waits in RAM too"
    )
    weights: Literal["pinned", "pageable", "mapped"] = Field(
        "pinned",
        description="streamed blocks wait in pinned RAM (fastest) | pageable RAM | mapped: on "
        "disk, for machines with little RAM",
    )
