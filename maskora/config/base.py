"""What all tables share, and those about the base: which one, and how it lies in memory."""

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from maskora.models import FAMILIES
from maskora.models.reading.part import WHAT

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


def _of_parts(files: dict[str, str]) -> dict[str, str]:
    for part, path in files.items():
        if part not in WHAT:
            near = difflib.get_close_matches(part, WHAT, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown part {part!r}: {hint}valid: {', '.join(WHAT)}")
        if not path:
            raise ValueError(f"{part} names no file")
    return files


class Model(Table):
    """The base that is fine-tuned: an image-to-video diffusion transformer."""

    family: Annotated[str, AfterValidator(_known)] = Field(
        "wan2.1-i2v",
        description=f"which kind of base ({', '.join(FAMILIES)}); it decides how a mask becomes "
        f"model input",
    )
    path: str = Field(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        description="a hub id, or a local folder in diffusers' or Wan's original layout (relative "
        'to this file); "" where files has all parts',
    )
    files: Annotated[dict[str, str], AfterValidator(_of_parts)] = Field(
        {},
        description="parts in single files, as of ComfyUI, which go before what path has: "
        f"{{{', '.join(WHAT)} = …}} (relative to this file)",
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

    @model_validator(mode="after")
    def _lies_somewhere(self) -> "Model":
        if not (self.path or self.files):
            raise ValueError("path is empty: name a hub id, a folder, or single files in files")
        return self

    @property
    def base(self) -> str:
        """The base in a word: its folder or hub id, or the first of its files."""
        return self.path or next(iter(self.files.values()))

    @property
    def storage(self) -> str:
        """transformer_dtype as a form of storage: "same" where it is what dtype is anyway."""
        return "same" if self.transformer_dtype in PLAIN else self.transformer_dtype


class Memory(Table):
    """Where the base lies while it works. `maskora plan` tells what comes of it."""

    vram_budget_gb: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description='how much of the GPU\'s memory may be used, in GB (2^30 bytes); "auto" = what '
        "is free when a run starts, less a reserve; a number is a cap on that",
    )
    blocks_to_swap: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="how many of the transformer's blocks wait in RAM and are streamed to the "
        'GPU; "auto" = the fewest that fit the budget',
    )
    activation_offload: bool = Field(
        True, description="what training keeps of each block waits in RAM too"
    )
    weights: Literal["pinned", "pageable", "mapped"] = Field(
        "pinned",
        description="streamed blocks wait in pinned RAM (fastest) | pageable RAM | mapped: on "
        "disk, for machines with little RAM",
    )
